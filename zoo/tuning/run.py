"""The state of a training run, advanced and checkpointed step by step."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from zoo.errors import TuningError
from zoo.torch_state.spread import spreading
from zoo.tuning import ema, evaluation
from zoo.tuning.callbacks import TuneState
from zoo.tuning.checkpoint import Checkpoint
from zoo.tuning.division import Division
from zoo.tuning.drawing import Drawing
from zoo.tuning.evaluation import Evaluations
from zoo.tuning.examples import Drawn, Examples
from zoo.tuning.folder import RunFolder
from zoo.tuning.interrupts import uninterrupted
from zoo.tuning.optimizer import built, persistent_buffers, set_lr
from zoo.tuning.optimizers import SHARDED, Optimizer
from zoo.tuning.processes import gathered, mean, same_everywhere
from zoo.tuning.rates import Rate, rates_of
from zoo.tuning.restoring import check, moments, put, put_moments
from zoo.tuning.result import TuneResult
from zoo.tuning.settings import Settings
from zoo.tuning.sharding import Sharding, clip
from zoo.tuning.step import accumulate, not_finite, objective
from zoo.tuning.tunable import Tunable
from zoo.weights.gathering import is_sharded, whole
from zoo.weights.walk import named_buffers

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass
class Run:
    """A run in progress. `step`, `losses`, `buffers` and `drawn` belong to the same moment between two steps.

    Attributes:
        model: what trains.
        accelerator: precision, scaling and the other processes.
        named: name and parameter of all that trains.
        settings: what the run depends on.
        division: which batches of each step are this process's.
        facts: the settings as checkpoints hold them, with the precision and the division.
        identity: what the run is of beside its settings; empty without a folder.
        folder: for checkpoints, or None.
        device: where the model is.
        examples: its batches.
        evaluations: what was evaluated so far.
        sharding: the weights, where each process keeps a part of them.
        step: steps done.
        losses: the loss of every step.
        drawing: draws this process's batches.
        drawn: digests of this process's batches so far; None where those before a resume were cut otherwise.
        loss_of: the model's loss as a module; see `zoo.tuning.step`.
        used: the share of the budget that is used.
        lr: the learning rate of the last step.
        chosen: what `optimizer` is made by.
        rates: multiples of it by the parameter's name, where they are not 1.
        written: the last checkpoint.
        resumed_from: the step that this call began at.
        stopped: why the run ends before its budget.
        earlier: seconds of the runs before it.
    """

    model: Tunable
    accelerator: Accelerator
    named: list[tuple[str, Parameter]]
    settings: Settings
    division: Division
    facts: dict[str, Any]
    identity: dict[str, Any]
    folder: RunFolder | None
    device: torch.device
    examples: Examples
    evaluations: Evaluations
    sharding: Sharding | None = None
    step: int = 0
    used: float = 0.0
    lr: float = 0.0
    losses: list[float] = field(default_factory=list)
    buffers: dict[str, Tensor] = field(init=False)
    drawn: Drawn | None = field(init=False)
    drawing: Drawing = field(init=False)
    loss_of: nn.Module = field(init=False)
    rates: dict[str, Rate] = field(init=False)
    optimizer: torch.optim.Optimizer = field(init=False)
    chosen: Optimizer = field(default_factory=Optimizer)
    written: Path | None = None
    resumed_from: int = 0
    stopped: str | None = None
    earlier: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    def begin(self, quiet: bool) -> None:
        """Seed, make the optimizer, and restore the last checkpoint if there is one."""
        settings, folder = self.settings, self.folder
        last = None if folder is None else folder.last
        self.drawing = Drawing(self.model, self.accelerator, self.examples, self.division, settings)
        if self.sharding is not None and self.division.batches % self.division.processes:
            raise TuningError(
                f"with sharded weights every process takes as many batches, and a step of this run has "
                f"{self.division.described()} for {self.division.processes} processes"
            )
        if self.sharding is not None and self.chosen.name not in SHARDED:
            raise TuningError(
                f"with FSDP2 the optimizers are {', '.join(SHARDED)}, which take a step of each value by itself, got "
                f"{self.chosen.name}: use one of them, or launch without --use_fsdp"
            )
        if self.sharding is None:
            self.loss_of = objective(self.model, self.accelerator, self.named)
        else:
            same_everywhere(self.accelerator, [one for _, one in self.named if not is_sharded(one)])
        # Those of the run's start: by what has been learnt since they would be others.
        self.rates = dict(last.rates) if last is not None else rates_of(self.model.module, self.named, settings)
        self.optimizer = built(self.named, settings, self.device, self.rates, self.chosen)
        if self.sharding is not None:
            self.named = self.sharding.spread(self.named, self.optimizer)
            self.loss_of = objective(self.model, self.accelerator, self.named)
        self.stepper = self.accelerator.prepare_optimizer(self.optimizer, device_placement=False)
        self.optimizer.zero_grad(set_to_none=True)
        if folder is not None:
            if last is not None and folder.path is not None:
                self._restore(folder.path, last, quiet)
            if self.accelerator.is_main_process:
                folder.describe({"settings": self.facts, "rates": self.rates, **self.identity})
        if last is not None and self.written is not None:
            self.drawing.catch_up(self.written, last)
        same_everywhere(self.accelerator, named_buffers(self.model.module).values())
        self._mark()
        self.started = time.perf_counter()  # reading the data is no part of a budget in minutes

    def advance(self) -> float:
        """Take one step and return its loss, the mean over the batches and the processes."""
        settings, named = self.settings, self.named
        batches = self.drawing.weighted(self.step, self.sharding is not None)
        total, norm = accumulate(self.loss_of, self.accelerator, named, batches, self.device)
        clock = total.new_full((), settings.used(self.step + 1, self.seconds))
        # The clock too is the processes' mean, or one of them would stop before the others.
        value, length, used = mean(self.accelerator, torch.stack([total, norm, clock]))
        # A scaler tries factors that are too large and leaves out the step itself.
        if not math.isfinite(value) or (not math.isfinite(length) and self.accelerator.scaler is None):
            raise not_finite(named, value, length, settings, self.step + 1, self.written)
        if settings.grad_clip is not None:
            clip([p for _, p in named], settings.grad_clip, norm)
        self.lr = settings.lr_at(self.step, self.used)
        set_lr(self.optimizer, self.lr, self.step)
        with uninterrupted():
            self.stepper.step()
            self.step += 1
            self.used = used
            ema.move(self.named, self.optimizer, self.settings.ema_decay, self.step)
            self.losses.append(value)
            self._mark()
        self.optimizer.zero_grad(set_to_none=True)
        return value

    def evaluate(self) -> None:
        """Evaluate the model as it would be if the run ended here, and keep its weights if it is the best so far."""
        data = self.evaluations.settings.data
        before = {name: parameter.detach().clone() for name, parameter in self.named} if self.settings.ema_decay else {}
        try:
            same_everywhere(self.accelerator, named_buffers(self.model.module).values())
            ema.put(self.named, self.optimizer)
            metrics: Mapping[str, float] = gathered(self.accelerator, self._evaluated(data))[0]
            best = self.evaluations.add(self.step, metrics)
            if best and self.evaluations.settings.keep_best:
                self._keep_best(metrics)
        finally:
            with torch.no_grad():
                for name, parameter in self.named if before else ():
                    parameter.copy_(before[name])
        self.stopped = self.stopped or self.evaluations.exhausted()

    def _evaluated(self, data: Any) -> Mapping[str, float]:
        """Return the metrics; the processes share the work, unless they share the weights."""
        accelerator = self.accelerator
        processes = 1 if self.sharding is not None else accelerator.num_processes
        with spreading(accelerator.process_index, processes):
            found: Mapping[str, float] = self.model.evaluate(data)
        evaluation.intervals_of(found)  # they are sent with the figures, and what they are computed from is not
        return found

    def _keep_best(self, metrics: Mapping[str, float]) -> None:
        tensors = {**persistent_buffers(self.model.module), **{name: whole(p) for name, p in self.named}}
        if self.out is None:
            self.evaluations.weights = {name: tensor.to("cpu", copy=True) for name, tensor in tensors.items()}
        elif self.accelerator.is_main_process:
            evaluation.save_best(self.out, self.step, tensors, metrics)

    def finish(self) -> None:
        """Leave the weights of the best evaluation, or the moving average of them, where there is one."""
        same_everywhere(self.accelerator, named_buffers(self.model.module).values())
        step = self.evaluations.best_step
        if step is None or step == self.step or not self.evaluations.settings.keep_best:
            with uninterrupted():
                ema.put(self.named, self.optimizer)
            return
        self.accelerator.wait_for_everyone()
        kept = evaluation.load_best(self.out, step) if self.out is not None else self.evaluations.weights
        with uninterrupted():
            put(kept or {}, self.model.module, self.named)

    def save(self) -> None:
        """Write a checkpoint of the moment between two steps, if there is a folder for it."""
        if self.folder is None:
            return
        tensors, moved = self._tensors(), moments(self.optimizer, self.named)
        drawn = self.drawn and self.drawing.summed(self.drawn)
        if not self.accelerator.is_main_process:
            return
        with uninterrupted():
            self.written = self.folder.save(
                Checkpoint(
                    step=self.step,
                    seconds=self.seconds,
                    losses=self.losses,
                    settings=self.facts,
                    rates=self.rates,
                    model=tensors,
                    optimizer=moved,
                    scaler=None if self.accelerator.scaler is None else self.accelerator.scaler.state_dict(),
                    drawn=drawn,
                    evaluations=self.evaluations.as_dict() if self.evaluations.history else None,
                    identity=self.identity,
                )
            )

    def interrupted(self) -> str:
        """Save after a signal, and return the line that says how to go on."""
        stopped = f"stopped after {self.settings.place(self.step)}"
        if self.out is None:
            return f"{stopped}; with out=FOLDER it could be resumed"
        # The processes may be a step apart, and saving would wait for all of them.
        if self.accelerator.num_processes == 1:
            self.save()
        if self.written is None:
            return f"{stopped}; there is no checkpoint in {self.out} yet"
        return (
            f"{stopped}, saved in {self.written}: "
            f"give the same settings with out={str(self.out)!r} and resume=True (--resume) to go on"
        )

    def result(self) -> TuneResult:
        """Return the finished run."""
        return TuneResult(
            losses=tuple(self.losses),
            steps=self.step,
            seconds=self.seconds,
            batch_size=self.division.items,
            lr=self.settings.lr,
            seed=self.settings.seed,
            trainable=sum(parameter.numel() for _, parameter in self.named),
            out=self.out,
            checkpoint=self.written,
            resumed_from=self.resumed_from,
            evaluations=tuple((step, dict(metrics)) for step, metrics in self.evaluations.history),
            intervals=dict(self.evaluations.intervals),
            best_step=self.evaluations.best_step,
            stopped=self.stopped,
            main_process=self.accelerator.is_main_process,
            reports=tuple(self.examples.reports),
        )

    @property
    def out(self) -> Path | None:
        """The run's folder."""
        return None if self.folder is None else self.folder.out

    @property
    def finished(self) -> bool:
        """Whether the budget is used up, or something has stopped the run."""
        if self.stopped is not None:
            return True
        return self.step >= self.settings.steps if self.settings.steps is not None else self.used >= 1

    @property
    def seconds(self) -> float:
        """The time of all steps, those before a resume included."""
        return self.earlier + time.perf_counter() - self.started

    def _mark(self) -> None:
        """Remember the state between two steps, to which a Ctrl-C within the next one comes back."""
        self.buffers = persistent_buffers(self.model.module)
        self.drawn = self.drawing.digests

    def _restore(self, folder: Path, last: Checkpoint, quiet: bool) -> None:
        """Check all of `last` against this run, and only then restore it."""
        self.buffers = persistent_buffers(self.model.module)
        check(folder, last, self.facts, self.identity, self._tensors(), quiet)
        put(last.model, self.model.module, self.named)
        put_moments(last.optimizer, self.optimizer, self.named)
        if self.accelerator.scaler is not None and last.scaler is not None:
            self.accelerator.scaler.load_state_dict(dict(last.scaler))
        self.step = self.resumed_from = last.step
        self.losses = list(last.losses)
        if last.evaluations is not None:
            self.evaluations.restore(last.evaluations)
            self.stopped = self.evaluations.exhausted()
        self.earlier = last.seconds
        self.used = self.settings.used(last.step, last.seconds)
        self.written = folder

    def _tensors(self) -> dict[str, Tensor]:
        """Return what training changes, by name, as it was between two steps."""
        return {**self.buffers, **{name: whole(parameter) for name, parameter in self.named}}


def state_of(run: Run) -> TuneState:
    """Return the run as its callbacks see it."""
    history = run.evaluations.history
    return TuneState(
        steps=run.settings.steps,
        out=run.out,
        step=run.step,
        loss=run.losses[-1] if run.losses else math.nan,
        lr=run.lr,
        used=run.used,
        metrics=history[-1][1] if history else {},
        best_step=run.evaluations.best_step,
        checkpoint=run.written,
        stopped=run.stopped,
    )
