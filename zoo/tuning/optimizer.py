"""The optimizer, and what of a module it trains or training changes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from zoo.errors import TuningError
from zoo.tuning.optimizers import Optimizer, fixed
from zoo.tuning.rates import ONE, Rate
from zoo.tuning.settings import Settings
from zoo.weights.walk import plain_names

_FUSED = (torch.optim.AdamW, torch.optim.Adam)


def built(
    named: list[tuple[str, Parameter]],
    settings: Settings,
    device: torch.device,
    rates: Mapping[str, Rate],
    optimizer: Optimizer = Optimizer(),  # noqa: B008 - immutable
) -> torch.optim.Optimizer:
    """Return the optimizer of a run, by default AdamW (arXiv:1711.05101); decay is of two or more dimensions only.

    Each group has a "rate", by which `set_lr` multiplies the learning rate. Adam's epsilon is divided by it, because
    gradients of a factor with a high rate are small.

    Args:
        named: name and parameter of all that trains.
        settings: of the run.
        device: where the parameters are.
        rates: of the parameters whose rate is not the learning rate itself, by name.
        optimizer: as `optimizer_of` gives it.
    """
    groups: dict[tuple[Rate, bool], list[Parameter]] = {}
    for name, parameter in named:
        groups.setdefault((rates.get(name, ONE), parameter.ndim >= 2), []).append(parameter)
    listed = [
        {
            "params": parameters,
            "rate": rate,
            "decay": settings.weight_decay if decays else 0.0,
            "decoupled": optimizer.decoupled,
            **({} if optimizer.eps is None else {"eps": optimizer.eps / rate.first}),
        }
        for (rate, decays), parameters in groups.items()
    ]
    options = fixed(optimizer)
    if optimizer.make in _FUSED and "foreach" not in options:
        options.setdefault("fused", device.type in {"cpu", "cuda"} or None)
    if "weight_decay" in inspect.signature(optimizer.make).parameters:
        options["weight_decay"] = 0.0  # each group has its own, see `set_lr`
    made = optimizer.make(listed, lr=settings.lr, **options)
    set_lr(made, settings.lr, 0)
    return made


def set_lr(optimizer: torch.optim.Optimizer, lr: float, step: int) -> None:
    """Set the learning rate of every group for a step, counted from 0; decay shrinks all of them by the same share."""
    for group in optimizer.param_groups:
        multiple = group["rate"].at(step)
        group["lr"] = lr * multiple
        group["weight_decay"] = group["decay"] / multiple if group["decoupled"] else group["decay"]


def check_loss(loss: Any) -> None:
    """Raise TuningError for what is no scalar tensor with a graph."""
    if not isinstance(loss, Tensor) or loss.ndim:
        got = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise TuningError(f"expected the plugin's loss as a tensor of no dimensions, got {got}")
    if not loss.requires_grad:
        raise TuningError("the loss does not depend on what trains: is the adapter active, or a no_grad around?")


def persistent_buffers(module: nn.Module) -> dict[str, Tensor]:
    """Return copies of the module's persistent buffers, such as running means."""
    plain = plain_names(module)
    return {
        plain(f"{path}.{name}" if path else name): buffer.detach().clone()
        for path, layer in module.named_modules()
        for name, buffer in layer._buffers.items()
        if buffer is not None and name not in layer._non_persistent_buffers_set
    }
