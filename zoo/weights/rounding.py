"""Rounding the weights of convolutions to 8 bit so that errors cancel: within each kernel, or within each row.

A kernel meets neighbouring positions of a picture or a sound, which are much alike. What rounding does to the sum of a
kernel's values therefore costs far more than what it does to each of them. So the values are rounded one after the
other, and each error is made up for by the values that are not rounded yet: the step of GPTQ (arXiv 2210.17323), with
a correlation of the inputs that is assumed instead of measured.

Measured on EfficientNet-Lite0's depthwise kernels and stem in 8 bit, alone, 200 crops: the KL divergence from full
precision is .0266 with each value rounded by itself, .0069 for a correlation of .5, .0021 for .9 and .0023 for .97.
In 4 bit errors are too large to be made up for: the Fréchet distance of the embedded stylegan rose from 6.62 to 8.16.

A kernel of one value has no neighbours, but the channels that a row of such a convolution meets are often all
positive, as ReLU leaves them, so the error of the row's sum counts most. It is made up for by rounding a few values the
other way, those nearest to the middle of two numbers, as in SQuant (arXiv 2202.07471). Measured on the same network's
1 × 1 convolutions, alone, 100 crops: the KL divergence is .0034 without and .0021 with it. In the linear layers of gpt,
bert and vit it changes the loss by less than .0003 either way, and packing takes five times as long: they are just
rounded.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

CORRELATION = 0.9  # of the inputs at two neighbouring positions; it falls by this factor with every step
MOST_TAPS = 1024  # values of one kernel, such as of 32 × 32: beyond, a weight's last dimensions are no kernel's


def kernel_of(shape: torch.Size) -> tuple[int, ...] | None:
    """Return the kernel's sizes of a convolution's weight (out, in, *kernel), by its shape; None for another weight."""
    kernel = tuple(shape[2:])
    return kernel if kernel and torch.Size(kernel).numel() <= MOST_TAPS and shape[0] * shape[1] > 1 else None


def round_convolution(values: Tensor, kernel: tuple[int, ...]) -> Tensor:
    """Round the rows (M, K) of a convolution's weight, divided by their scales, to whole numbers of at most ±127."""
    return round_rows(values) if math.prod(kernel) == 1 else round_kernels(values, kernel)


def round_kernels(values: Tensor, kernel: tuple[int, ...]) -> Tensor:
    """Round the values of many kernels to whole numbers of at most ±127, so that the errors of each kernel cancel.

    Args:
        values: Kernels one after the other, in any shape: float32, divided by their scales.
        kernel: The kernels' sizes.

    Returns:
        Whole numbers, float32, of the same shape.
    """
    shares = _shares(kernel).to(values.device)
    taps = shares.shape[0]
    left = values.reshape(-1, taps).T.contiguous()  # (taps, kernels): what is still to be rounded
    for tap in range(taps):
        rounded = left[tap].round().clamp_(-127.0, 127.0)
        error = left[tap] - rounded
        left[tap] = rounded
        left[tap + 1 :] += shares[tap, tap + 1 :, None] * error
    return left.T.reshape(values.shape)


def round_rows(values: Tensor) -> Tensor:
    """Round the values of rows to whole numbers of at most ±127, so that each row's sum moves by at most a half.

    Args:
        values: (M, K), float32, divided by their scales.

    Returns:
        Whole numbers, float32 (M, K).
    """
    rounded = values.round()
    errors = values - rounded
    moved = errors.sum(1).round_()  # (M,): by how many steps each row's sum is off
    # Half of a row at most; how many it is can be read at once on the CPU alone.
    most = int(moved.abs().max()) if values.device.type == "cpu" else values.shape[1] // 2 + 1
    if most:
        direction = moved.sign().unsqueeze(1)
        nearest = (errors * direction).topk(min(most, values.shape[1]), dim=1).indices  # (M, most)
        among = torch.arange(nearest.shape[1], device=values.device) < moved.abs().unsqueeze(1)
        rounded.scatter_add_(1, nearest, direction * among)
    return rounded.clamp_(-127.0, 127.0)


@functools.cache
def _shares(kernel: tuple[int, ...]) -> Tensor:
    """Return how much of the error of each value each later one takes over, float32 (taps, taps)."""
    places = torch.cartesian_prod(*[torch.arange(size, dtype=torch.float64) for size in kernel])
    places = places.reshape(-1, len(kernel))  # (taps, dimensions)
    moment = CORRELATION ** torch.cdist(places, places)  # of the inputs, (taps, taps)
    upper = torch.linalg.cholesky(torch.linalg.inv(moment), upper=True)
    return (-upper / upper.diagonal()[:, None]).triu(1).float()
