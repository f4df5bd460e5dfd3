"""bitsandbytes' kernels, imported when they are first needed, and a check of the values that they get."""

from __future__ import annotations

import logging
import math

import torch
from torch import Tensor

from zoo.errors import QuantizationError
from zoo.weights.readings import later

KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# diffusers imports bitsandbytes as well, which at every import warns about an optional kernel package.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

_loaded = False  # not functools.cache: torch.compile can read a flag, but would trace the import


def kernels():  # type: ignore[no-untyped-def]
    """Return `torch.ops.bitsandbytes`, imported when the first weight is quantized or dequantized."""
    global _loaded
    if not _loaded:
        import bitsandbytes  # noqa: F401

        _loaded = True
    return torch.ops.bitsandbytes


_MAPS: dict[torch.device, Tensor] = {}  # a plain dict, which torch.compile can read


def dynamic_map(device: torch.device) -> Tensor:
    """Return the values of bitsandbytes' dynamic 8-bit type, float32 (256,), built once per device."""
    code = _MAPS.get(device)
    if code is None:
        kernels()
        from bitsandbytes.functional import create_dynamic_map

        code = _MAPS[device] = create_dynamic_map().to(device)
    return code


def require_finite(values: Tensor) -> None:
    """Raise `QuantizationError` for NaN and Inf, without a temporary tensor: both show in the extremes."""
    if values.device.type == "meta" or not values.numel():
        return

    def known(extremes: list[float]) -> None:
        if not all(map(math.isfinite, extremes)):
            raise QuantizationError("the weight holds NaN or Inf and cannot be quantized")

    later(torch.stack((values.amax(), values.amin())), known)
