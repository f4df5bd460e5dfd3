"""The values of bitsandbytes' 4-bit types, on each device once."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.weights.kernels import kernels

_LEVELS: dict[tuple[str, torch.device], Tensor] = {}  # a plain dict, which torch.compile can read


def four_bit_levels(scheme: str, device: torch.device) -> Tensor:
    """Return the 16 values of "nf4" or "fp4" by their codes, float32 (16,)."""
    levels = _LEVELS.get((scheme, device))
    if levels is None:
        kernels()
        from bitsandbytes.functional import get_4bit_type

        levels = _LEVELS[scheme, device] = get_4bit_type(scheme, device="cpu").to(device)
    return levels
