"""One step of a run: the gradients of its batches over all processes, their size, and what is wrong with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from zoo.errors import TuningError
from zoo.tuning.optimizer import check_loss
from zoo.tuning.processes import average_gradients
from zoo.tuning.settings import Settings
from zoo.tuning.tunable import Tunable

if TYPE_CHECKING:
    from accelerate import Accelerator

Named = Sequence[tuple[str, Parameter]]


def accumulate(
    model: Tunable, accelerator: Accelerator, named: Named, batches: Sequence[tuple[Any, float]], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Fill the gradients of what trains, and return this process's loss and the norm of the gradients.

    Args:
        model: its loss is taken of each batch.
        accelerator: precision, scaling and the other processes.
        named: name and parameter of all that trains.
        batches: this process's, each with its share in the loss.
        device: where the model is.

    Raises:
        TuningError: the loss is no scalar, or has no graph.
    """
    from accelerate.utils import send_to_device

    parameters = [parameter for _, parameter in named]
    total = torch.zeros((), device=device)
    for batch, weight in batches:
        with accelerator.autocast():
            loss = model.loss(send_to_device(batch, device))
        check_loss(loss)
        total += loss.detach().to(device, torch.float32) * weight
        # Accelerate divides by the number of batches.
        accelerator.backward(loss * (weight * accelerator.gradient_accumulation_steps))
    average_gradients(accelerator, parameters)
    accelerator.unscale_gradients()
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    return total, norm.to(device, torch.float32)


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
