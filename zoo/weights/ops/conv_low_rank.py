"""The low-rank part of a convolution that is not folded into the weight, and the gradients of its factors.

The update's kernel is two kernels, one after the other: `right` as a spatial one to r channels, `left` as a 1×1 one
from them (of a transposed convolution `left` comes first). The 1×1 one is always a matrix product.

See `base.py` for the notation and `shifts.py` for the matrices.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.weights.ops.conv_choice import Plan, Way
from zoo.weights.ops.geometry import (
    Geometry,
    add_product,
    channels_last,
    convolve,
    gradients,
    image,
    matrices,
    plus,
)
from zoo.weights.ops.shifts import by_tap, factor_gradient, gather, spread, wide
from zoo.weights.update import Factors

Grads = tuple[Tensor | None, Tensor | None, Tensor | None]


class Wanted(NamedTuple):
    """Which gradients `backward` computes.

    Attributes:
        left: Whether that of left.
        right: Whether that of right.
        grad_x: The base's part of the gradient of x, to which the update's is added (written into it unless a graph
            needs it); None if the gradient of x is not needed, or the update is in the base's part already.
    """

    left: bool
    right: bool
    grad_x: Tensor | None


def add_output(
    y: Tensor, x: Tensor, factors: Factors, shape: torch.Size, geometry: Geometry, how: Plan
) -> tuple[Tensor, Tensor | None]:
    """Return y + the convolution of x with scale · left @ right, and the r channels between the factors if there are.

    The sum is written into y unless a graph needs it.

    Args:
        y: (n, out, *spatial), the caller's own.
        x: (n, in, *spatial).
        factors: left, right and scale.
        shape: The weight's.
        geometry: Stride, padding and so on.
        how: How to compute it.
    """
    left, right, scale = factors
    if how.way is Way.DENSE:
        return plus(y, convolve(x, delta(factors, shape), None, geometry)), None
    n, groups = x.shape[0], geometry.groups
    if geometry.transposed:
        last = channels_last(x)
        point = _by_group(left * scale, groups, n, last)  # (B, in / groups, rank)
        hidden = image(torch.bmm(point.mT, matrices(x, groups, last)), n, x.shape[2:], last)
        return plus(y, convolve(hidden, _spatial(right, shape, groups), None, geometry)), None
    last = channels_last(y)
    hidden = _hidden(x, right, shape, geometry, how, last)
    return add_product(y, _by_group(left, groups, n, last), hidden, scale, groups, last), hidden


def backward(
    g: Tensor,
    x: Tensor,
    hidden: Tensor | None,
    factors: Factors,
    shape: torch.Size,
    geometry: Geometry,
    how: Plan,
    wanted: Wanted,
) -> Grads:
    """Return the gradients of x, left and right, through the r channels between the factors.

    Args:
        g: The output's gradient (n, out, *spatial).
        x: The input.
        hidden: What `add_output` returned, if it was kept.
        factors: left, right and scale.
        shape: The weight's.
        geometry: Stride, padding and so on.
        how: How to compute them; not `DENSE`.
        wanted: Which.
    """
    if geometry.transposed:
        return _backward_transposed(g, x, factors, shape, geometry, wanted)
    left, right, scale = factors
    n, rank, groups = x.shape[0], right.shape[0], geometry.groups
    last = channels_last(g)
    if hidden is not None and hidden.shape[0] != (groups if last else n * groups):
        last = not last  # as y lay in memory; its gradient does not
    seen = matrices(g, groups, last)  # (B, out / groups, positions)
    grad_left = grad_right = None
    grad_x = wanted.grad_x
    if wanted.left:
        if hidden is None:
            hidden = _hidden(x, right, shape, geometry, how, last)
        grad_left = _sum_images(torch.bmm(seen, hidden.mT), groups).mul_(scale).view(shape[0], rank)
    if not wanted.right and grad_x is None:
        return None, grad_left, None
    grad_hidden = torch.bmm(_by_group(left, groups, n, last).mT, seen)  # (B, rank, positions), without the scale
    if how.way is Way.SHIFTS and how.taps is not None:
        columns = spread(grad_hidden, how.taps, n if last else 1)  # (B, rank · K, positions of x)
        if wanted.right:
            grad_right = factor_gradient(columns, matrices(x, groups, last), how.taps).mul_(scale)
        if grad_x is not None:
            kernel = by_tap(right, how.taps, shape[1]).mT.expand(columns.shape[0], -1, -1)
            grad_x = add_product(grad_x, kernel, columns, scale, groups, last)
        return grad_x, grad_left, grad_right
    flat = image(grad_hidden * scale, n, g.shape[2:], last)
    part, grad = gradients(flat, x, _spatial(right, shape, groups), geometry, grad_x is not None, wanted.right)
    if grad is not None:
        grad_right = _sum_groups(grad, groups, rank)
    if grad_x is not None and part is not None:
        grad_x = plus(grad_x, part)
    return grad_x, grad_left, grad_right


def _backward_transposed(
    g: Tensor, x: Tensor, factors: Factors, shape: torch.Size, geometry: Geometry, wanted: Wanted
) -> Grads:
    left, right, scale = factors
    n, rank, groups = x.shape[0], right.shape[0], geometry.groups
    last = channels_last(x)
    seen = matrices(x, groups, last)  # (B, in / groups, positions)
    point = _by_group(left * scale, groups, n, last)  # (B, in / groups, rank)
    hidden = image(torch.bmm(point.mT, seen), n, x.shape[2:], last)  # (n, r, *spatial)
    need_hidden = wanted.left or wanted.grad_x is not None
    grad_hidden, grad = gradients(g, hidden, _spatial(right, shape, groups), geometry, need_hidden, wanted.right)
    grad_x, grad_left = wanted.grad_x, None
    grad_right = None if grad is None else _sum_groups(grad, groups, rank)
    if grad_hidden is not None:
        flat = matrices(grad_hidden, groups, last)  # (B, rank, positions)
        if wanted.left:
            grad_left = _sum_images(torch.bmm(seen, flat.mT), groups).mul_(scale).view(shape[0], rank)
        if grad_x is not None:
            grad_x = add_product(grad_x, point, flat, 1.0, groups, last)
    return grad_x, grad_left, grad_right


def from_dense(
    grad_weight: Tensor, factors: Factors, shape: torch.Size, need_left: bool, need_right: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of left and right from that of the dense weight."""
    left, right, scale = factors
    matrix = grad_weight.reshape(shape[0], -1)  # (rows, columns)
    grad_left = scale * (matrix @ right.t()) if need_left else None  # (rows, rank)
    return grad_left, scale * (left.t() @ matrix) if need_right else None  # (rank, columns)


def delta(factors: Factors, shape: torch.Size) -> Tensor:
    """Return ΔW as a kernel of the weight's shape."""
    left, right, scale = factors
    return (left @ right).mul(scale).view(shape)


def _hidden(x: Tensor, right: Tensor, shape: torch.Size, geometry: Geometry, how: Plan, last: bool) -> Tensor:
    """Return the convolution of x with `right` (B, rank, positions of y)."""
    if how.way is Way.SHIFTS and how.taps is not None:
        kernel = by_tap(right, how.taps, shape[1])
        return gather(matrices(x, geometry.groups, last), kernel, how.taps, x.shape[0] if last else 1)
    kernel = _spatial(right, shape, geometry.groups)
    return matrices(convolve(x, kernel, None, geometry), geometry.groups, last)


def _spatial(right: Tensor, shape: torch.Size, groups: int) -> Tensor:
    """Return `right` as a kernel (r, in or out / groups, *kernel); every group uses the same."""
    kernel = right.reshape(right.shape[0], *shape[1:])
    return kernel if groups == 1 else kernel.repeat(groups, *(1 for _ in shape[1:]))


def _by_group(left: Tensor, groups: int, n: int, last: bool) -> Tensor:
    """Return `left` (rows, rank) as the batch of 1×1 kernels that `matrices` asks for: (B, rows / groups, rank)."""
    if groups == 1:
        return left.expand(1 if last else n, -1, -1)
    by_group = left.reshape(groups, left.shape[0] // groups, left.shape[1])
    return by_group if last else by_group.repeat(n, 1, 1)


def _sum_images(grad: Tensor, groups: int) -> Tensor:
    """Return the sum over images of a gradient (B, rows / groups, rank), in `wide`: (groups, rows / groups, rank)."""
    return grad.view(-1, groups, *grad.shape[1:]).sum(0, dtype=wide(grad.dtype))


def _sum_groups(grad: Tensor, groups: int, rank: int) -> Tensor:
    """Return the gradient of `right` (rank, columns) from that of its kernel (r, …)."""
    if groups == 1:
        return grad.reshape(rank, math.prod(grad.shape[1:]))
    return grad.reshape(groups, rank, -1).sum(0)
