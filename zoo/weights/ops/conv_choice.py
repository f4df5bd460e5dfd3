"""How a convolution with a low-rank update is computed, chosen by its sizes: the one place for that."""

from __future__ import annotations

import math
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.weights.ops.base import SMALL, prefer_folding
from zoo.weights.ops.geometry import Geometry
from zoo.weights.ops.shifts import Taps, taps_of

SMALL_WORK = 1 << 22  # multiplications up to which a convolution's cost is the number of operations, not their size
SMALL_WORK_16_BITS = 1 << 24  # the same where the other way is several convolutions in 16 bits


class Way(Enum):
    """How the factors' gradients are computed, and the update's output if it is not folded into the weight.

    Attributes:
        SHIFTS: Through the r channels between the factors; the spatial kernel as products and shifts (`shifts.py`).
        KERNELS: Through the r channels; the spatial kernel as a convolution.
        DENSE: Through ΔW, which is a kernel as large as the weight, and the dense weight's gradient.
    """

    SHIFTS = "shifts"
    KERNELS = "kernels"
    DENSE = "dense"


class Plan(NamedTuple):
    """How one convolution is computed.

    Attributes:
        way: Of the update.
        folded: Whether ΔW is added to the weight for the output and the gradient of x.
        keeps: Whether the r channels are kept for the backward pass instead of computed again.
        dtype: What it is computed in: float32 for small ones of 16 bits.
        taps: For shifts.
    """

    way: Way
    folded: bool
    keeps: bool
    dtype: torch.dtype
    taps: Taps | None


def plan(x: Tensor, shape: torch.Size, rank: int, geometry: Geometry) -> Plan:
    """Return how to compute a convolution.

    Measured in bfloat16, rank 8, on one thread, step relative to the frozen layer's, shifts and kernels: 3×3 64 → 64,
    32², batch 8: 1.64 and 1.80; 128 → 128, 16²: 1.42 and 1.51; 256 → 256, 8²: 1.30 and 1.38; 3×3×3 32 → 32: 3.3 and
    2.7; 64 → 64 at rank 32: 3.1 and 2.5. Keeping the r channels saves .1 to .2 of it.

    Args:
        x: (n, in, *spatial), in the compute dtype.
        shape: The weight's.
        rank: The update's.
        geometry: Stride, padding and so on.
    """
    choose = _choose if torch.compiler.is_compiling() else _chosen  # sizes of a graph cannot be remembered
    device = x.device.type
    return choose(x.shape, x.dtype, device, torch.is_autocast_enabled(device), shape, rank, geometry)


def _choose(
    size: torch.Size,
    dtype: torch.dtype,
    device: str,
    autocast: bool,
    shape: torch.Size,
    rank: int,
    geometry: Geometry,
) -> Plan:
    on_cpu = device == "cpu"
    rows, columns = shape[0], math.prod(shape[1:])
    positions = size[0] * math.prod(size[2:])
    work = positions * rows * columns
    if not geometry.transposed:
        work //= max(math.prod(geometry.stride), 1)
    outputs = shape[1] if geometry.transposed else rows // geometry.groups  # per group
    if on_cpu and not autocast and work <= SMALL_WORK_16_BITS and dtype in (torch.bfloat16, torch.float16):
        dtype = torch.float32
    full = dtype is torch.float32 or dtype is torch.float64
    taps = None
    if rank >= outputs or (on_cpu and full and _prefers_dense(work, rows, columns, outputs, shape[1], rank)):
        way = Way.DENSE
    else:
        if on_cpu and rank * columns <= 3 * shape[1] ** 2:  # else r channels of every tap are far more than x
            taps = taps_of(tuple(size[2:]), tuple(shape[2:]), geometry)
        way = Way.KERNELS if taps is None else Way.SHIFTS
    folded = prefer_folding(positions, rows, columns, dtype)
    keeps = not folded and way is not Way.DENSE and not geometry.transposed and 8 * rank <= shape[1]
    return Plan(way, folded, keeps, dtype, taps)


def _prefers_dense(work: int, rows: int, columns: int, outputs: int, inputs: int, rank: int) -> bool:
    """Return whether the dense weight's gradient takes less time on a CPU than the factors' through r channels.

    Measured at rank 8 on one thread, in float32, step relative to the frozen layer's, dense and through channels: 3×3
    16 → 16, 16², batch 4: 2.3 and 2.9; 32 → 32, 16²: 2.3 and 2.6; 64², batch 2: 1.7 and 1.8; 64 → 64, 8², batch 2: 2.5
    and 2.5; 64 → 64, 32², batch 8: 1.6 and 1.3; 3 → 64: 1.4 and 1.7; 1×1, 64 → 256, 28²: 1.5 and 1.6; 256 → 256: 1.7
    and 1.3.
    """
    pointwise = columns == inputs
    return 4 * rank >= outputs or rank >= inputs or work <= SMALL_WORK or (pointwise and rows * columns <= SMALL)


_chosen = lru_cache(maxsize=4096)(_choose)
