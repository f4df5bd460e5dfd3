"""Apply updates to a weight, one after the other."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from zoo.weights.offload import HOOK, call, present
from zoo.weights.update import Update


def in_order(updates: Iterable[tuple[Update, float]]) -> list[tuple[Update, float]]:
    """Return updates with their weights in the order in which they are applied."""
    return sorted(updates, key=lambda one: one[0].last)


def apply_updates(base: Tensor, updates: Iterable[tuple[Update, float]]) -> Tensor:
    """Return the base with updates applied one after the other, each with its effect scaled by a weight.

    An update that replaces the whole weight is the base of those after it.
    """
    weight = base
    for update, factor in updates:
        if factor == 1.0:
            weight = _applied(update, weight, base) if update.takes_base else _applied(update, weight)
            base = weight if update.replaces and call(update, update.replacement) is not None else base
        elif factor != 0.0:  # for 16-bit weights the small difference is computed in float32
            dtype = torch.promote_types(weight.dtype, torch.float32)
            wide = weight.to(dtype)
            args = (wide, base.to(dtype)) if update.takes_base else (wide,)
            full = _applied(update, *args)
            weight = (wide + factor * (full - wide)).to(weight.dtype)
    return weight


def _applied(update: Update, *args: Tensor) -> Tensor:
    if HOOK not in update.__dict__:
        return update(*args)
    with present(update):  # not by its hook, for whose tensors a gradient would be lost
        return type(update).forward(update, *args)
