"""The state of a training run, advanced and checkpointed step by step."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from zoo.errors import DataError, TuningError
from zoo.storage.atomic import write_json
from zoo.torch_state.rng import IsolatedIterator, RandomState, random_state, seed_everything, set_random_state
from zoo.tuning import checkpoint as checkpoints
from zoo.tuning.checkpoint import Checkpoint
from zoo.tuning.interrupts import uninterrupted
from zoo.tuning.processes import average_gradients, gathered, mean, same_everywhere
from zoo.tuning.result import TuneResult
from zoo.tuning.settings import Settings
from zoo.weights.walk import named_buffers, plain_names

if TYPE_CHECKING:
    from accelerate import Accelerator

EMA = "average"  # what a parameter's moving average is called among its optimizer's moments, in checkpoints too


class Tunable(Protocol):
    """The part of a model that the loop uses; `zoo.Model` has it."""

    @property
    def module(self) -> nn.Module: ...
    @property
    def device(self) -> torch.device: ...
    def loss(self, batch: Any) -> Tensor: ...
    def batches(self, data: Any = None, *, batch_size: int, split: str = "train", seed: int = 0) -> Iterable[Any]: ...
    def trainable_parameters(self) -> Iterable[tuple[str, Parameter]]: ...
    def train(self) -> Any: ...


@dataclass
class Run:
    """A run in progress. `step`, `losses`, `random` and `buffers` belong to the same moment between two steps.

    Attributes:
        model: what trains.
        accelerator: precision, scaling and the other processes.
        named: name and parameter of all that trains.
        settings: what the run depends on.
        facts: the settings as checkpoints hold them, with the precision and the number of processes.
        out: the folder for checkpoints, or None.
        device: where the model is.
        step: steps done.
        losses: the loss of every step.
        used: the share of the budget that is used.
        lr: the learning rate of the last step.
        written: the last checkpoint.
        resumed_from: the step that this call began at.
        earlier: seconds of the runs before it.
    """

    model: Tunable
    accelerator: Accelerator
    named: list[tuple[str, Parameter]]
    settings: Settings
    facts: dict[str, Any]
    out: Path | None
    device: torch.device
    step: int = 0
    used: float = 0.0
    lr: float = 0.0
    losses: list[float] = field(default_factory=list)
    random: RandomState = field(init=False)
    buffers: dict[str, Tensor] = field(init=False)
    batches: Iterator[Any] = field(init=False)
    optimizer: torch.optim.AdamW = field(init=False)
    written: Path | None = None
    resumed_from: int = 0
    earlier: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    def begin(self, data: Any, folder: Path | None, last: Checkpoint | None) -> None:
        """Seed, make the optimizer and the batches, and restore the checkpoint `last` if there is one."""
        settings, model = self.settings, self.model
        parameters = [parameter for _, parameter in self.named]
        seed_everything(settings.seed + self.accelerator.process_index)
        same_everywhere(self.accelerator, parameters)
        self.optimizer = _adamw(parameters, settings, self.device)
        self.stepper = self.accelerator.prepare_optimizer(self.optimizer, device_placement=False)
        self.optimizer.zero_grad(set_to_none=True)
        if folder is not None and last is not None:
            self._restore(folder, last)
        elif self.out is not None and self.accelerator.is_main_process:
            write_json(self.out / "tuning.json", self.facts)  # what cannot be written shows now, not an hour later
        self.batches = IsolatedIterator(
            lambda: model.batches(data, batch_size=settings.batch_size, split="train", seed=settings.seed),
            settings.seed,
        )
        for _ in range(self.step * settings.gradient_accumulation_steps * self.accelerator.num_processes):
            self._next()
        if last is not None:
            set_random_state(last.random[self.accelerator.process_index], self.device)
        self._mark()
        self.started = time.perf_counter()  # reading the data is no part of a budget in minutes

    def advance(self) -> float:
        """Take one step and return its loss, the mean over the batches and the processes."""
        accelerator, settings = self.accelerator, self.settings
        parameters = [parameter for _, parameter in self.named]
        total = torch.zeros((), device=self.device)
        for _ in range(settings.gradient_accumulation_steps):
            batch = self._batch()
            with accelerator.autocast():
                loss = self.model.loss(batch)
            _check_loss(loss)
            total += loss.detach().to(self.device, torch.float32) / settings.gradient_accumulation_steps
            accelerator.backward(loss)
        average_gradients(accelerator, parameters)
        accelerator.unscale_gradients()
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        clock = total.new_tensor(settings.used(self.step + 1, self.seconds))
        # The clock too is the processes' mean, or one of them would stop before the others.
        value, length, used = mean(accelerator, torch.stack([total, norm.to(self.device, torch.float32), clock]))
        # A scaler tries factors that are too large and leaves out the step itself.
        if not math.isfinite(value) or (not math.isfinite(length) and accelerator.scaler is None):
            raise self._not_finite(value, length)
        if settings.grad_clip is not None:
            nn.utils.clip_grads_with_norm_(parameters, settings.grad_clip, norm)
        self.lr = settings.lr_at(self.step, self.used)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
        with uninterrupted():
            self.stepper.step()
            self.step += 1
            self.used = used
            self._move_ema()
            self.losses.append(value)
            self._mark()
        self.optimizer.zero_grad(set_to_none=True)
        return value

    def finish(self) -> None:
        """Put the moving average, where there is one, in the place of the trained values."""
        with torch.no_grad(), uninterrupted():
            for _, parameter in self.named:
                average = self.optimizer.state.get(parameter, {}).get(EMA)
                if average is not None:
                    parameter.copy_(average)

    def save(self) -> None:
        """Write a checkpoint of the moment between two steps, if there is a folder for it."""
        if self.out is None:
            return
        states = gathered(self.accelerator, self.random)
        if not self.accelerator.is_main_process:
            return
        with uninterrupted():
            self.written = checkpoints.save(
                self.out,
                Checkpoint(
                    step=self.step,
                    seconds=self.seconds,
                    losses=self.losses,
                    settings=self.facts,
                    model=self._tensors(),
                    optimizer=self._moments(),
                    random=states,
                    scaler=None if self.accelerator.scaler is None else self.accelerator.scaler.state_dict(),
                ),
            )

    def interrupted(self) -> str:
        """Save after Ctrl-C, and return the line that says how to go on."""
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
        batches = self.settings.gradient_accumulation_steps * self.accelerator.num_processes
        return TuneResult(
            losses=tuple(self.losses),
            steps=self.step,
            seconds=self.seconds,
            batch_size=self.settings.batch_size * batches,
            lr=self.settings.lr,
            seed=self.settings.seed,
            trainable=sum(parameter.numel() for _, parameter in self.named),
            out=self.out,
            checkpoint=self.written,
            resumed_from=self.resumed_from,
        )

    @property
    def finished(self) -> bool:
        """Whether the budget is used up."""
        return self.step >= self.settings.steps if self.settings.steps is not None else self.used >= 1

    @property
    def seconds(self) -> float:
        """The time of all steps, those before a resume included."""
        return self.earlier + time.perf_counter() - self.started

    def _move_ema(self) -> None:
        """Move the averages, which are kept with the optimizer's moments and so in every checkpoint.

        The first steps count less: the decay of step t is (1 + t) / (10 + t) at most.
        """
        if not self.settings.ema_decay:
            return
        decay = min(self.settings.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for _, parameter in self.named:
                state = self.optimizer.state.get(parameter)
                if state and EMA in state:
                    state[EMA].lerp_(parameter, 1 - decay)
                elif state:
                    state[EMA] = parameter.detach().clone()

    def _mark(self) -> None:
        """Remember the state between two steps, to which a Ctrl-C within the next one comes back."""
        self.random = random_state(self.device)
        self.buffers = _buffers(self.model.module)

    def _restore(self, folder: Path, last: Checkpoint) -> None:
        """Check all of `last` against this run, and only then restore it."""
        checkpoints.check_settings(folder, last.settings, self.facts)
        self.buffers = _buffers(self.model.module)
        checkpoints.check_tensors(folder, last.model, self._tensors())
        live = {**named_buffers(self.model.module), **dict(self.named)}
        with torch.no_grad():
            for name, tensor in last.model.items():
                live[name].copy_(tensor)
        for name, parameter in self.named:
            kinds = {
                key.rsplit("/", 1)[1]: tensor for key, tensor in last.optimizer.items() if key.rsplit("/", 1)[0] == name
            }
            if kinds:  # a parameter that no loss has used yet has none
                self.optimizer.state[parameter] = {kind: tensor.to(self.device) for kind, tensor in kinds.items()}
        if self.accelerator.scaler is not None and last.scaler is not None:
            self.accelerator.scaler.load_state_dict(dict(last.scaler))
        self.step = self.resumed_from = last.step
        self.losses = list(last.losses)
        self.earlier = last.seconds
        self.used = self.settings.used(last.step, last.seconds)
        self.written = folder

    def _tensors(self) -> dict[str, Tensor]:
        """Return what training changes, by name, as it was between two steps."""
        return {**self.buffers, **{name: parameter.detach() for name, parameter in self.named}}

    def _moments(self) -> dict[str, Tensor]:
        """Return the optimizer's state, as "<parameter>/<moment>"."""
        state = self.optimizer.state
        return {
            f"{name}/{kind}": tensor
            for name, parameter in self.named
            if parameter in state
            for kind, tensor in state[parameter].items()
        }

    def _batch(self) -> Any:
        """Return this process's next batch, on the device: of every `processes` batches each takes one."""
        from accelerate.utils import send_to_device

        drawn = [self._next() for _ in range(self.accelerator.num_processes)]
        return send_to_device(drawn[self.accelerator.process_index], self.device)

    def _next(self) -> Any:
        try:
            return next(self.batches)
        except StopIteration:
            raise DataError(
                f"the batches ended before {self.settings.place(self.step + 1)}: expected an endless stream "
                'for split="train"; is there any data in it?'
            ) from None

    def _not_finite(self, loss: float, norm: float) -> TuningError:
        settings = self.settings
        found = f"the loss is {loss}"
        if math.isfinite(loss):
            bad = [n for n, p in self.named if p.grad is not None and not bool(p.grad.isfinite().all())]
            found = f"the gradient's norm is {norm}{f', first in {bad[0]}' if bad else ''}"
        kept = f"; the checkpoint {self.written} stays" if self.written else ""
        return TuningError(
            f"{found} at {settings.place(self.step + 1)}; the weights are those before it{kept}. "
            f"Give a lower lr (it is {settings.lr:g}) or a longer warmup, or look for such values in the data"
        )


def _adamw(parameters: list[Parameter], settings: Settings, device: torch.device) -> torch.optim.AdamW:
    """Return AdamW (arXiv:1711.05101), with decay on what has two or more dimensions only."""
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    fused = device.type in {"cpu", "cuda"}
    return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, fused=fused or None)


def _check_loss(loss: Any) -> None:
    """Raise TuningError for what is no scalar tensor with a graph."""
    if not isinstance(loss, Tensor) or loss.ndim:
        got = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise TuningError(f"expected the plugin's loss as a tensor of no dimensions, got {got}")
    if not loss.requires_grad:
        raise TuningError("the loss does not depend on what trains: is the adapter active, or a no_grad around?")


def _buffers(module: nn.Module) -> dict[str, Tensor]:
    """Return copies of the module's persistent buffers, such as running means."""
    plain = plain_names(module)
    return {
        plain(f"{path}.{name}" if path else name): buffer.detach().clone()
        for path, layer in module.named_modules()
        for name, buffer in layer._buffers.items()
        if buffer is not None and name not in layer._non_persistent_buffers_set
    }
