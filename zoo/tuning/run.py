"""A run in progress: one step after the other, and the moment between two of them that a checkpoint holds."""

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

if TYPE_CHECKING:
    from accelerate import Accelerator

AVERAGE = "average"  # what a parameter's running average is called among its optimizer's moments


class Tunable(Protocol):
    """What the loop needs of a model; `zoo.Model` is one."""

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
    """A run in progress. `step`, `losses`, `random` and `buffers` belong to the same moment between two steps."""

    model: Tunable
    made: Accelerator
    named: list[tuple[str, Parameter]]
    settings: Settings
    facts: dict[str, Any]
    out: Path | None
    device: torch.device
    step: int = 0
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
        """Seed, make the optimizer and the batches, and take up `last` if there is one."""
        settings, model = self.settings, self.model
        parameters = [parameter for _, parameter in self.named]
        seed_everything(settings.seed + self.made.process_index)
        same_everywhere(self.made, parameters)
        self.optimizer = _adamw(parameters, settings, self.device)
        self.stepper = self.made.prepare_optimizer(self.optimizer, device_placement=False)
        self.optimizer.zero_grad(set_to_none=True)
        if folder is not None and last is not None:
            self._restore(folder, last)
        elif self.out is not None and self.made.is_main_process:
            write_json(self.out / "tuning.json", self.facts)  # what cannot be written shows now, not an hour later
        self.batches = IsolatedIterator(
            lambda: model.batches(data, batch_size=settings.batch_size, split="train", seed=settings.seed),
            settings.seed,
        )
        for _ in range(self.step * settings.accumulate * self.made.num_processes):
            self._next()
        if last is not None:
            set_random_state(last.random[self.made.process_index], self.device)
        self._mark()

    def advance(self) -> float:
        """One step; gives its loss, the mean over the batches and the processes."""
        made, settings = self.made, self.settings
        parameters = [parameter for _, parameter in self.named]
        total = torch.zeros((), device=self.device)
        for _ in range(settings.accumulate):
            batch = self._batch()
            with made.autocast():
                loss = self.model.loss(batch)
            _check_loss(loss)
            total += loss.detach().to(self.device, torch.float32) / settings.accumulate
            made.backward(loss)
        average_gradients(made, parameters)
        made.unscale_gradients()
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        value, length = mean(made, torch.stack([total, norm.to(self.device, torch.float32)]))
        # A scaler tries factors that are too large and leaves out the step itself.
        if not math.isfinite(value) or (not math.isfinite(length) and made.scaler is None):
            raise self._not_finite(value, length)
        if settings.grad_clip is not None:
            nn.utils.clip_grads_with_norm_(parameters, settings.grad_clip, norm)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.lr_at(self.step)
        with uninterrupted():
            self.stepper.step()
            self.step += 1
            self._average()
            self.losses.append(value)
            self._mark()
        self.optimizer.zero_grad(set_to_none=True)
        return value

    def finish(self) -> None:
        """Let the running average, where there is one, take the place of what was trained."""
        with torch.no_grad(), uninterrupted():
            for _, parameter in self.named:
                mean = self.optimizer.state.get(parameter, {}).get(AVERAGE)
                if mean is not None:
                    parameter.copy_(mean)

    def save(self) -> None:
        """Write a checkpoint of the moment between two steps, if there is a folder for it."""
        if self.out is None:
            return
        states = gathered(self.made, self.random)
        if not self.made.is_main_process:
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
                    scaler=None if self.made.scaler is None else self.made.scaler.state_dict(),
                ),
            )

    def interrupted(self) -> str:
        """Save what there is after Ctrl-C; gives the line that says how to go on."""
        if self.out is None:
            return f"stopped after step {self.step} of {self.settings.steps}; with out=FOLDER it could be resumed"
        # The processes may be a step apart, and saving would wait for all of them.
        if self.made.num_processes == 1:
            self.save()
        if self.written is None:
            return f"stopped after step {self.step} of {self.settings.steps}; there is no checkpoint in {self.out} yet"
        return (
            f"stopped after step {self.step} of {self.settings.steps}, saved in {self.written}: "
            f"give the same settings with out={str(self.out)!r} and resume=True (--resume) to go on"
        )

    def result(self) -> TuneResult:
        return TuneResult(
            losses=tuple(self.losses),
            steps=self.step,
            seconds=self.seconds,
            batch_size=self.settings.batch_size * self.settings.accumulate * self.made.num_processes,
            lr=self.settings.lr,
            seed=self.settings.seed,
            trainable=sum(parameter.numel() for _, parameter in self.named),
            out=self.out,
            checkpoint=self.written,
            resumed_from=self.resumed_from,
        )

    @property
    def seconds(self) -> float:
        return self.earlier + time.perf_counter() - self.started

    def _average(self) -> None:
        """Move the running averages; they lie beside the optimizer's moments, and so in every checkpoint.

        The first steps count less: the decay of step t is (1 + t) / (10 + t) at most.
        """
        if not self.settings.average:
            return
        decay = min(self.settings.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for _, parameter in self.named:
                state = self.optimizer.state.get(parameter)
                if state and AVERAGE in state:
                    state[AVERAGE].lerp_(parameter, 1 - decay)
                elif state:
                    state[AVERAGE] = parameter.detach().clone()

    def _mark(self) -> None:
        """Remember this moment between two steps; a Ctrl-C within the next one comes back to it."""
        self.random = random_state(self.device)
        self.buffers = _buffers(self.model.module)

    def _restore(self, folder: Path, last: Checkpoint) -> None:
        """Check all of `last` against this run, and only then take it up."""
        checkpoints.check_settings(folder, last.settings, self.facts)
        self.buffers = _buffers(self.model.module)
        checkpoints.check_tensors(folder, last.model, self._tensors())
        live = {**dict(self.model.module.named_buffers(remove_duplicate=False)), **dict(self.named)}
        with torch.no_grad():
            for name, tensor in last.model.items():
                live[name].copy_(tensor)
        for name, parameter in self.named:
            kinds = {
                key.rsplit("/", 1)[1]: tensor for key, tensor in last.optimizer.items() if key.rsplit("/", 1)[0] == name
            }
            if kinds:  # a parameter that no loss has used yet has none
                self.optimizer.state[parameter] = {kind: tensor.to(self.device) for kind, tensor in kinds.items()}
        if self.made.scaler is not None and last.scaler is not None:
            self.made.scaler.load_state_dict(dict(last.scaler))
        self.step = self.resumed_from = last.step
        self.losses = list(last.losses)
        self.earlier = last.seconds
        self.written = folder

    def _tensors(self) -> dict[str, Tensor]:
        """What training changes, by name, as it was between two steps."""
        return {**self.buffers, **{name: parameter.detach() for name, parameter in self.named}}

    def _moments(self) -> dict[str, Tensor]:
        state = self.optimizer.state
        return {
            f"{name}/{kind}": tensor
            for name, parameter in self.named
            if parameter in state
            for kind, tensor in state[parameter].items()
        }

    def _batch(self) -> Any:
        """This process's next batch, on the device: of every `processes` batches each takes one."""
        from accelerate.utils import send_to_device

        drawn = [self._next() for _ in range(self.made.num_processes)]
        return send_to_device(drawn[self.made.process_index], self.device)

    def _next(self) -> Any:
        try:
            return next(self.batches)
        except StopIteration:
            raise DataError(
                f"the batches ended before step {self.step + 1} of {self.settings.steps}: expected an endless stream "
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
            f"{found} at step {self.step + 1} of {settings.steps}; the weights are those before it{kept}. "
            f"Give a lower lr (it is {settings.lr:g}) or a longer warmup, or look for such values in the data"
        )


def _adamw(parameters: list[Parameter], settings: Settings, device: torch.device) -> torch.optim.AdamW:
    """AdamW (arXiv:1711.05101), with decay on what has two or more dimensions only."""
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    fused = device.type in {"cpu", "cuda"}
    return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, fused=fused or None)


def _check_loss(loss: Any) -> None:
    if not isinstance(loss, Tensor) or loss.ndim:
        got = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise TuningError(f"expected the plugin's loss as a tensor of no dimensions, got {got}")
    if not loss.requires_grad:
        raise TuningError("the loss does not depend on what trains: is the adapter active, or a no_grad around?")


def _buffers(module: nn.Module) -> dict[str, Tensor]:
    """Copies of the module's persistent buffers, such as running means."""
    return {
        f"{path}.{name}" if path else name: buffer.detach().clone()
        for path, layer in module.named_modules()
        for name, buffer in layer._buffers.items()
        if buffer is not None and name not in layer._non_persistent_buffers_set
    }
