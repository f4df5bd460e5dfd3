"""bitsandbytes' kernels, imported when they are first needed, and a check of the values that they get."""

from __future__ import annotations

import functools
import logging
import math

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

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


_TABLES: dict[tuple[str, torch.device], Tensor] = {}  # what a kernel reads, on each device once


@torch.compiler.assume_constant_result
def dynamic_map(device: torch.device) -> Tensor:
    """Return the values of bitsandbytes' dynamic 8-bit type, float32 (256,), built once per device."""
    found = _TABLES.get(("dynamic", device))
    return _table("dynamic", device) if found is None else found


@torch.compiler.assume_constant_result
def four_bit_levels(scheme: str, device: torch.device) -> Tensor:
    """Return the 16 values of "nf4" or "fp4" by their codes, float32 (16,), built once per device."""
    found = _TABLES.get((scheme, device))
    return _table(scheme, device) if found is None else found


def _table(name: str, device: torch.device) -> Tensor:
    """Return a new table. It is kept, unless it is a fake tensor of somebody who traces.

    torch.compile calls the two functions above while it traces, and has their results as constants: a table that
    compiled code made would lie in memory that a CUDA graph writes over.
    """
    table = torch.tensor(_values(name), dtype=torch.float32, device=device)
    if type(table) is Tensor:
        _TABLES[name, device] = table
    return table


@functools.cache
def _values(name: str) -> list[float]:
    kernels()
    from bitsandbytes.functional import create_dynamic_map, get_4bit_type

    with _disable_current_modes():  # fake tensors have no values
        table = create_dynamic_map() if name == "dynamic" else get_4bit_type(name, device="cpu")
        return table.tolist()


def require_finite(values: Tensor) -> None:
    """Raise `QuantizationError` for NaN and Inf, without a temporary tensor: both show in the extremes."""
    if values.device.type == "meta" or not values.numel():
        return

    def known(extremes: list[float]) -> None:
        if not all(map(math.isfinite, extremes)):
            raise QuantizationError("the weight holds NaN or Inf and cannot be quantized")

    later(torch.stack((values.amax(), values.amin())), known)
