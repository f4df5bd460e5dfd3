"""The optimizer, and what of a module it trains or training changes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from zoo.errors import TuningError
from zoo.tuning.settings import Settings
from zoo.weights.walk import plain_names


def adamw(parameters: list[Parameter], settings: Settings, device: torch.device) -> torch.optim.AdamW:
    """Return AdamW (arXiv:1711.05101), with decay on what has two or more dimensions only."""
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    fused = device.type in {"cpu", "cuda"}
    return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, fused=fused or None)


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
