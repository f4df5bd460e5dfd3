"""Convolutions to and from a few channels as matrix products, for stride 1: what a kernel of rank r needs.

A convolution kernel of torch's libraries computes 8 or 16 channels at once and reorders its whole input first, so that
one to 8 channels takes about twice the time of its arithmetic. Here a product with the kernel seen as (r · K, c) makes
the r channels of every tap, and their shifted sum is the convolution; the gradients are products with the r channels
shifted to every tap. The shifts touch r channels only, never the c of the input.

Notation, besides that of `base.py`:
    c      channels of the input        K  taps, the product of the kernel's sizes        P  positions of the input
    B      batch and m images in it, as `matrices` sees them: n · groups and 1, or channels_last: groups and n
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.weights.ops.geometry import Geometry

FEW = 1 << 17  # values up to which one slow operation (`F.fold`) takes less time than a dozen fast ones


class Taps(NamedTuple):
    """A kernel of stride 1 on inputs of one size.

    Attributes:
        kernel: Its sizes.
        padding: By dimension.
        dilation: By dimension.
        inputs: Sizes of the input.
        outputs: Sizes of the output.
    """

    kernel: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def margins(self) -> tuple[int, ...]:
        """By dimension, how far beyond the output's ends a tap's positions reach."""
        sizes = zip(self.kernel, self.padding, self.dilation, strict=True)
        return tuple(step * (k - 1) - pad for k, pad, step in sizes)


def taps_of(spatial: tuple[int, ...], kernel: tuple[int, ...], geometry: Geometry) -> Taps | None:
    """Return the taps of a convolution over inputs of size `spatial`; None if it cannot be computed by shifts."""
    if geometry.transposed or any(step != 1 for step in geometry.stride):
        return None
    sizes = zip(spatial, kernel, geometry.padding, geometry.dilation, strict=True)
    outputs = tuple(size + 2 * pad - step * (k - 1) for size, k, pad, step in sizes)
    if any(not 0 < out <= size for out, size in zip(outputs, spatial, strict=True)):
        return None
    return Taps(tuple(kernel), geometry.padding, geometry.dilation, tuple(spatial), outputs)


def by_tap(right: Tensor, taps: Taps, c: int) -> Tensor:
    """Return `right` (r, c · K) as (r · K, c), the taps in reverse order, as `gather` and `spread` have them."""
    rank, count = right.shape[0], math.prod(taps.kernel)
    return right.view(rank, c, count).flip(2).mT.reshape(rank * count, c)


def gather(x: Tensor, kernel: Tensor, taps: Taps, m: int) -> Tensor:
    """Return the convolution of x (B, c, m · P) with a kernel from `by_tap` (r · K, c): (B, r, m · out).

    Sums over the taps are in float32 if x has 16 bits.
    """
    batch, count = x.shape[0], math.prod(taps.kernel)
    planes = torch.bmm(kernel.expand(batch, -1, -1), x)  # (B, r · K, m · P)
    if count == 1 and taps.inputs == taps.outputs:
        return planes
    rank = kernel.shape[0] // count
    planes = planes.to(wide(planes.dtype))
    margins = taps.margins
    if m == 1 and len(margins) == 2 and planes.numel() <= FEW and min(margins) >= 0:
        found = F.fold(planes, taps.outputs, taps.kernel, taps.dilation, margins)
        return found.view(batch, rank, -1).to(x.dtype)
    planes = planes.view(batch * rank, *taps.kernel, m, *taps.inputs)
    for axis in reversed(range(len(taps.kernel))):  # each drops the last dimension of the kernel
        planes = _sum_shifted(planes, axis, taps)
    for axis, (size, out) in enumerate(zip(taps.inputs, taps.outputs, strict=True)):
        if out != size:
            planes = planes.narrow(2 + axis, 0, out)
    return planes.reshape(batch, rank, m * math.prod(taps.outputs)).to(x.dtype)


def _sum_shifted(planes: Tensor, axis: int, taps: Taps) -> Tensor:
    """Return the sum over the kernel's dimension `axis` of planes shifted by its taps; changes `planes`.

    planes: (B · r, *kernel[:axis + 1], m, *inputs) → (B · r, *kernel[:axis], m, *inputs).
    """
    n, size, padding, dilation = len(taps.inputs), taps.inputs[axis], taps.padding[axis], taps.dilation[axis]
    parts = planes.unbind(axis + 1)
    shifts = [dilation * tap - padding for tap in reversed(range(taps.kernel[axis]))]
    total = parts[shifts.index(0)] if 0 in shifts else torch.zeros_like(parts[0])
    for part, shift in zip(parts, shifts, strict=True):
        if shift == 0 or abs(shift) >= size:
            continue
        into, dim = total, axis - n
        if dim == -1 and n > 1:  # by flat positions, as lines are short; what would wrap is zeroed
            part.narrow(-1, 0 if shift > 0 else size + shift, abs(shift)).zero_()
            into, part = into.flatten(-n), part.flatten(-n)
        length = into.shape[dim] - abs(shift)
        into.narrow(dim, max(0, -shift), length).add_(part.narrow(dim, max(0, shift), length))
    return total


def spread(hidden: Tensor, taps: Taps, m: int) -> Tensor:
    """Return gradients (B, r, m · out) shifted to every tap, taps in reverse order: (B, r · K, m · P)."""
    batch, rank = hidden.shape[:2]
    count, n = math.prod(taps.kernel), len(taps.kernel)
    if count == 1 and taps.inputs == taps.outputs:
        return hidden
    margins = [one for one in reversed(taps.margins) for _ in range(2)]
    padded = F.pad(hidden.view(batch, rank, m, *taps.outputs), margins)
    for axis in range(n):  # (B, r, m, *padded) → (B, r, m, *kernel, *inputs)
        padded = padded.unfold(3 + axis, taps.inputs[axis], taps.dilation[axis])
    return padded.movedim(2, 2 + n).reshape(batch, rank * count, m * math.prod(taps.inputs))


def factor_gradient(columns: Tensor, x: Tensor, taps: Taps) -> Tensor:
    """Return the gradient of `right` (r, c · K) from `spread`'s columns (B, r · K, m · P) and x (B, c, m · P).

    It is in float32 if x has 16 bits.
    """
    count = math.prod(taps.kernel)
    grad = torch.bmm(columns, x.mT).sum(0, dtype=wide(x.dtype))  # (r · K, c)
    return grad.view(-1, count, x.shape[1]).flip(1).mT.reshape(grad.shape[0] // count, -1)


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which values of `dtype` are summed: float32 for 16 bits."""
    return torch.float32 if dtype is torch.bfloat16 or dtype is torch.float16 else dtype
