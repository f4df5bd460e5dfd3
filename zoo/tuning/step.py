"""One step of a run: the gradients of its batches over all processes, their size, and what is wrong with them.

The loss of a plugin calls the module as often as it likes, parts of it, or only its weights. So it is not the module
that torch's DistributedDataParallel gets but the whole loss: a module whose forward pass is the loss of a batch, and
whose parameters are what trains. Everything else that the loss uses is the same in every process, and stays there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from zoo.errors import TuningError
from zoo.torch_state.rng import seed_everything
from zoo.tuning.optimizer import check_loss
from zoo.tuning.settings import Settings
from zoo.tuning.sharding import total_norm
from zoo.tuning.tunable import Tunable
from zoo.weights.gathering import is_sharded, regathering

if TYPE_CHECKING:
    from accelerate import Accelerator

Named = Sequence[tuple[str, Parameter]]


class Weighted(NamedTuple):
    """A batch, its share in the loss of the step, and the seed of what the loss draws."""

    batch: Any
    share: float
    seed: int


class Objective(nn.Module):
    """The loss of a model as a module: `forward(batch)` is the loss, a scalar, and its parameters are what trains.

    Parameters that are sharded are not among them: their gradients are averaged where they are gathered.
    """

    def __init__(self, model: Tunable, named: Named) -> None:
        super().__init__()
        self._model = (model,)  # in a tuple, so that the frozen weights are not parameters of this module
        # Never used: DistributedDataParallel warns where it was to look for unused parameters and there are none.
        self.unused = nn.Parameter(torch.zeros(()))
        self.trained = nn.ParameterList([parameter for _, parameter in named if not is_sharded(parameter)])

    def forward(self, batch: Any) -> Tensor:
        """Return the loss of a batch; without one, 0, of which some parameter has a gradient of 0."""
        if batch is None:
            return 0.0 * self.trained[0].sum()
        loss = self._model[0].loss(batch)
        check_loss(loss)
        return loss


def objective(model: Tunable, accelerator: Accelerator, named: Named) -> nn.Module:
    """Return the loss of a model as a module whose backward pass averages gradients over the processes.

    What trains has the first process's values in every process afterwards.
    """
    loss = Objective(model, named)
    if accelerator.num_processes == 1 or not len(loss.trained):
        return loss
    if len(loss.trained) < len(named):  # accelerate's own way of FSDP2 would shard these as well
        return nn.parallel.DistributedDataParallel(loss, find_unused_parameters=True)
    prepared: nn.Module = accelerator.prepare_model(loss, device_placement=False)
    return prepared


def accumulate(
    loss_of: nn.Module, accelerator: Accelerator, named: Named, batches: Sequence[Weighted], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Fill the gradients of what trains, and return this process's loss and the norm of the gradients.

    Args:
        loss_of: what `objective` returns.
        accelerator: precision, scaling and the other processes.
        named: name and parameter of all that trains.
        batches: this process's.
        device: where the model is.

    Raises:
        TuningError: the loss is no scalar, or has no graph.
    """
    from accelerate.utils import send_to_device

    freely = device.type not in ("cpu", "mps")  # without waiting until it has arrived
    total = torch.zeros((), device=device)
    shards = any(is_sharded(parameter) for _, parameter in named)
    batches = batches or [Weighted(None, 0.0, 0)]  # every process has a part in the mean
    for number, (batch, share, seed) in enumerate(batches, 1):
        # Gradients add up, and are averaged over the processes with the last batch.
        with getattr(loss_of, "no_sync", nullcontext)() if number < len(batches) else nullcontext():
            seed_everything(seed)
            with accelerator.autocast(), regathering() if shards else nullcontext():
                loss = loss_of(None if batch is None else send_to_device(batch, device, non_blocking=freely))
            total += loss.detach().to(device, torch.float32) * share
            accelerator.backward(loss * share if batch is not None else loss)
    accelerator.unscale_gradients()
    return total, total_norm([p.grad for _, p in named if p.grad is not None], device)


def not_finite(named: Named, loss: float, norm: float, settings: Settings, step: int, kept: Path | None) -> TuningError:
    """Return the error for a step (counted from 1) whose loss or gradient is not finite."""
    found = f"the loss is {loss}"
    if math.isfinite(loss):
        bad = [n for n, p in named if p.grad is not None and not bool(p.grad.isfinite().all())]
        found = f"the gradient's norm is {norm}{f', first in {bad[0]}' if bad else ''}"
    stays = f"; the checkpoint {kept} stays" if kept else ""
    return TuningError(
        f"{found} at {settings.place(step)}; the weights are those before it{stays}. "
        f"Give a lower lr (it is {settings.lr:g}) or a longer warmup, or look for such values in the data"
    )
