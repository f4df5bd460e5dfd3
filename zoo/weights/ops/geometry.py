"""A convolution's arguments, torch's operations with them, and images seen as matrices."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Geometry(NamedTuple):
    """The arguments of `aten::convolution` after the tensors."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    output_padding: tuple[int, ...]
    groups: int


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """Return the convolution (n, out, *spatial)."""
    return torch.ops.aten.convolution.default(x, weight, bias, *geometry)


def gradients(
    g: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, need_x: bool, need_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of x and of the weight, those that are needed."""
    mask = [need_x, need_weight, False]
    grad_x, grad_weight, _ = torch.ops.aten.convolution_backward.default(g, x, weight, None, *geometry, mask)
    if grad_weight is not None and torch.compiler.is_compiling():
        # While compiling torch expects another memory format than its kernels may give: what follows sees a copy.
        grad_weight = grad_weight.clone(memory_format=torch.contiguous_format)
    return grad_x, grad_weight


def channels_last(image: Tensor) -> bool:
    """Return whether an image (n, channels, *spatial) has its channels side by side in memory."""
    return image.dim() > 3 and not image.is_contiguous() and image.movedim(1, -1).is_contiguous()


def matrices(image: Tensor, groups: int, last: bool) -> Tensor:
    """Return an image (n, channels, *spatial) as matrices (batch, channels / groups, positions), a view if it can be.

    Args:
        image: The image.
        groups: Of how many parts the channels are.
        last: Whether to see all images as one matrix per group, as `channels_last` memory lies: the batch is then the
            groups and the positions are those of all images. Otherwise there is a matrix per image and group.
    """
    n, channels, positions = image.shape[0], image.shape[1], math.prod(image.shape[2:])
    if last:
        return image.movedim(1, -1).reshape(n * positions, groups, channels // groups).permute(1, 2, 0)
    return image.reshape(n * groups, channels // groups, positions)


def image(found: Tensor, n: int, spatial: tuple[int, ...], last: bool) -> Tensor:
    """Return matrices (batch, channels / groups, positions) as images (n, channels, *spatial): undoes `matrices`."""
    if last:
        return found.reshape(-1, n, *spatial).movedim(0, 1)
    return found.reshape(n, -1, *spatial)


def plus(y: Tensor, part: Tensor) -> Tensor:
    """Return y + part, written into y, which must be the caller's own, unless a graph needs it."""
    return y + part if torch.is_grad_enabled() else y.add_(part)


def add_product(y: Tensor, first: Tensor, second: Tensor, scale: float, groups: int, last: bool) -> Tensor:
    """Return the image y + scale · first @ second, of matrices as `matrices` makes them, in the memory format of y.

    It is written into y, which must be the caller's own, unless a graph needs it.
    """
    if not torch.is_grad_enabled() and (channels_last(y) if last else y.is_contiguous()):
        seen = matrices(y, groups, last)
        if last:  # rows of the product are rows of memory
            seen.mT.baddbmm_(second.mT, first.mT, alpha=scale)
        else:
            seen.baddbmm_(first, second, alpha=scale)
        return y
    return y + image(torch.bmm(first * scale, second), y.shape[0], tuple(y.shape[2:]), last)
