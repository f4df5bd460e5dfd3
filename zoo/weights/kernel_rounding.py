"""Rounding the kernels of convolutions to 8 bit: neighbouring values share their errors, so that the errors cancel.

A kernel meets neighbouring positions of a picture or a sound, which are much alike. What rounding does to the sum of a
kernel's values therefore costs far more than what it does to each of them. So the values are rounded one after the
other, and each error is made up for by the values that are not rounded yet: the step of GPTQ (arXiv 2210.17323), with
a correlation of the inputs that is assumed instead of measured.

Measured on EfficientNet-Lite0's depthwise kernels and stem in 8 bit, alone, 200 crops: the KL divergence from full
precision is .0266 with each value rounded by itself, .0069 for a correlation of .5, .0021 for .9 and .0023 for .97.
In 4 bit errors are too large to be made up for: the Fréchet distance of the embedded stylegan rose from 6.62 to 8.16.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

CORRELATION = 0.9  # of the inputs at two neighbouring positions; it falls by this factor with every step
MOST_TAPS = 1024  # values of one kernel, such as of 32 × 32: beyond, a weight's last dimensions are no kernel's


def kernel_of(shape: torch.Size) -> tuple[int, ...] | None:
    """Return the kernel's sizes of a convolution's weight (out, in, *kernel), by its shape; None for another weight."""
    kernel = tuple(shape[2:])
    taps = torch.Size(kernel).numel()
    return kernel if kernel and 1 < taps <= MOST_TAPS and shape[0] * shape[1] > 1 else None


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


@functools.cache
def _shares(kernel: tuple[int, ...]) -> Tensor:
    """Return how much of the error of each value each later one takes over, float32 (taps, taps)."""
    places = torch.cartesian_prod(*[torch.arange(size, dtype=torch.float64) for size in kernel])
    places = places.reshape(-1, len(kernel))  # (taps, dimensions)
    moment = CORRELATION ** torch.cdist(places, places)  # of the inputs, (taps, taps)
    upper = torch.linalg.cholesky(torch.linalg.inv(moment), upper=True)
    return (-upper / upper.diagonal()[:, None]).triu(1).float()
