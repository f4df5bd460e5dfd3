"""Convolutions, plain and transposed, with a managed weight, by one autograd function that saves nothing dense.

See `base.py` for the notation. Shapes:
    x, y   (n, in, *spatial) and (n, out, *spatial)
    W      (out, in / groups, *kernel); of a transposed convolution (in, out / groups, *kernel)
    r      groups · rank, the channels between the two kernels of a low-rank update
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.ops.base import (
    BaseTensors,
    base_tensors,
    compute_dtype,
    dense_of,
    fold,
    join,
    needs_graph,
    prefer_folding,
    transforms_active,
)
from zoo.weights.quantized_tensor import Codec
from zoo.weights.update import Factors


class Geometry(NamedTuple):
    """The arguments of `aten::convolution` after the tensors."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    output_padding: tuple[int, ...]
    groups: int


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    return torch.ops.aten.convolution.default(x, weight, bias, *geometry)


def _gradients(g: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, mask: list[bool]) -> tuple[Tensor | None, ...]:
    return torch.ops.aten.convolution_backward.default(g, x, weight, None, *geometry, mask)


def _pointwise(geometry: Geometry) -> Geometry:
    n = len(geometry.stride)
    return Geometry((1,) * n, (0,) * n, (1,) * n, False, (0,) * n, geometry.groups)


def _kernels(factors: Factors, shape: torch.Size, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """Return the two kernels, spatial and pointwise, whose composition is the convolution with left @ right.

    The spatial one is (r, in / groups, *kernel), transposed (r, out / groups, *kernel); the pointwise one maps between
    a group's channels and its rank. Each group uses the same `right` and its own rows of `left`.
    """
    left, right, _ = factors
    rank, groups = right.shape[0], geometry.groups
    ones = (1,) * (len(shape) - 2)
    spatial = right.reshape(rank, *shape[1:])  # (rank, in or out / groups, *kernel)
    if groups > 1:
        spatial = spatial.repeat(groups, *(1 for _ in shape[1:]))  # (r, in or out / groups, *kernel)
    if not geometry.transposed:
        return spatial, left.reshape(shape[0], rank, *ones)  # pointwise: (out, rank, 1, …)
    by_group = left.reshape(groups, shape[0] // groups, rank).transpose(1, 2)  # (groups, rank, in / groups)
    return spatial, by_group.reshape(groups * rank, shape[0] // groups, *ones)  # pointwise: (r, in / groups, 1, …)


def _low_rank_output(x: Tensor, factors: Factors, shape: torch.Size, geometry: Geometry) -> Tensor:
    """Return the update's own output, scale included: two convolutions through r channels, without forming ΔW."""
    spatial, pointwise = _kernels(factors, shape, geometry)
    if geometry.transposed:
        y = _convolve(_convolve(x, pointwise, None, _pointwise(geometry)), spatial, None, geometry)
    else:
        y = _convolve(_convolve(x, spatial, None, geometry), pointwise, None, _pointwise(geometry))
    return y * factors.scale  # (n, out, *spatial)


def _positions(x: Tensor, y_shape: torch.Size | None = None) -> int:
    shape = x.shape if y_shape is None else y_shape
    return shape[0] * math.prod(shape[2:])


def _fits_folding(x: Tensor, shape: torch.Size, dtype: torch.dtype) -> bool:
    return prefer_folding(_positions(x), shape[0], math.prod(shape[1:]), dtype)


def _forward(x: Tensor, bias: Tensor | None, base: BaseTensors, factors: Factors | None, geometry: Geometry) -> Tensor:
    if factors is not None and _fits_folding(x, base.shape, x.dtype):
        return _convolve(x, fold(base.codec, base.shape, base.tensors, factors), bias, geometry)
    y = _convolve(x, dense_of(base.codec, base.shape, x.dtype, base.tensors), bias, geometry)
    return y if factors is None else y + _low_rank_output(x, factors, base.shape, geometry)


class _Convolution(torch.autograd.Function):
    """Saves x, the factors and the base as it is stored; the dense weight is recomputed in the backward pass.

    It has no `setup_context`, for the reason given at `linear`'s function.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        bias: Tensor | None,
        left: Tensor | None,
        right: Tensor | None,
        scale: float,
        geometry: Geometry,
        codec: Codec | None,
        shape: torch.Size,
        *tensors: Tensor,
    ) -> Tensor:
        trains = left is not None and right is not None and (left.requires_grad or right.requires_grad)
        keep_x = trains or tensors[0].requires_grad
        ctx.save_for_backward(x if keep_x else None, left, right, *tensors)
        ctx.scale, ctx.geometry, ctx.codec, ctx.shape = scale, geometry, codec, shape
        ctx.x_form = (x.shape, x.stride())
        ctx.bias_dtype = None if bias is None else bias.dtype
        factors = None if left is None or right is None else Factors(left, right, scale)
        return _forward(x, bias, BaseTensors(codec, shape, tensors), factors, geometry)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, left, right, *tensors = ctx.saved_tensors
        geometry, codec, shape = ctx.geometry, ctx.codec, ctx.shape
        if x is None:  # only its gradient is needed, and aten's backward then reads only the shape and strides of x
            x = g.new_empty_strided(*ctx.x_form)
        need_x, need_bias, need_left, need_right = ctx.needs_input_grad[:4]
        need_base = ctx.needs_input_grad[8]
        factors: Any = None if left is None else Factors(left, right, ctx.scale)
        grad_x: Any = None
        grad_bias = grad_left = grad_right = grad_base = grad_weight = None
        if need_left or need_right:
            # Through r channels, unless those are no fewer than the weight's own (depthwise layers).
            outputs = shape[1] * geometry.groups if geometry.transposed else shape[0]
            if right.shape[0] * geometry.groups >= outputs or need_base:
                grad_weight = _grad_weight(g, x, shape, geometry)
                matrix = grad_weight.reshape(shape[0], -1)  # (rows, columns)
                grad_left = ctx.scale * (matrix @ right.t()) if need_left else None  # (rows, rank)
                grad_right = ctx.scale * (left.t() @ matrix) if need_right else None  # (rank, columns)
            else:
                grad_left, grad_right = _grad_factors(g, x, factors, shape, geometry)
        if need_base:
            grad_base = grad_weight if grad_weight is not None else _grad_weight(g, x, shape, geometry)
            grad_base = grad_base.to(tensors[0].dtype)
        if need_x:
            folded = factors is not None and _fits_folding(x, shape, g.dtype)
            if folded:
                weight = fold(codec, shape, tuple(tensors), factors)
            else:
                weight = dense_of(codec, shape, g.dtype, tuple(tensors))
            grad_x = _gradients(g, x, weight, geometry, [True, False, False])[0]
            if factors is not None and not folded:
                grad_x = grad_x + _grad_x_low_rank(g, x, factors, shape, geometry)
        if need_bias:
            grad_bias = g.sum([0, *range(2, g.dim())]).to(ctx.bias_dtype)  # (out,)
        others = [None] * (len(tensors) - 1)
        return grad_x, grad_bias, grad_left, grad_right, None, None, None, None, grad_base, *others


def _grad_weight(g: Tensor, x: Tensor, shape: torch.Size, geometry: Geometry) -> Tensor:
    """Return the dense weight's gradient."""
    # Here convolution_backward reads only the shape of this weight; an expanded scalar takes no memory.
    weight = g.new_zeros(()).expand(shape)
    return _gradients(g, x, weight, geometry, [False, True, False])[1]  # type: ignore[return-value]


def _grad_factors(
    g: Tensor, x: Tensor, factors: Factors, shape: torch.Size, geometry: Geometry
) -> tuple[Tensor, Tensor]:
    """Return the gradients of left and right, through r channels."""
    rank, groups, scale = factors.right.shape[0], geometry.groups, factors.scale
    spatial, pointwise = _kernels(factors, shape, geometry)
    point = _pointwise(geometry)
    if geometry.transposed:
        hidden = _convolve(x, pointwise, None, point)  # (n, r, *spatial)
        grad_hidden, grad_spatial, _ = _gradients(g, hidden, spatial, geometry, [True, True, False])
        grad_point = _gradients(grad_hidden, x, pointwise, point, [False, True, False])[1]  # type: ignore[arg-type]
        by_group = grad_point.reshape(groups, rank, shape[0] // groups).transpose(1, 2)  # type: ignore[union-attr]
        grad_left = by_group.reshape(shape[0], rank)  # (rows, rank)
    else:
        hidden = _convolve(x, spatial, None, geometry)  # (n, r, *spatial)
        grad_hidden, grad_point, _ = _gradients(g, hidden, pointwise, point, [True, True, False])
        grad_spatial = _gradients(grad_hidden, x, spatial, geometry, [False, True, False])[1]  # type: ignore[arg-type]
        grad_left = grad_point.reshape(shape[0], rank)  # type: ignore[union-attr]  # (rows, rank)
    grad_right = grad_spatial.reshape(groups, rank, -1).sum(0)  # type: ignore[union-attr]  # (rank, columns)
    return scale * grad_left, scale * grad_right


def _grad_x_low_rank(g: Tensor, x: Tensor, factors: Factors, shape: torch.Size, geometry: Geometry) -> Tensor:
    """Return the update's part of the gradient of x if the update is not folded into the weight."""
    spatial, pointwise = _kernels(factors, shape, geometry)
    point = _pointwise(geometry)
    if geometry.transposed:
        hidden = _convolve(x, pointwise, None, point)
        grad_hidden = _gradients(g, hidden, spatial, geometry, [True, False, False])[0]
        grad = _gradients(grad_hidden, x, pointwise, point, [True, False, False])[0]  # type: ignore[arg-type]
    else:
        hidden = _convolve(x, spatial, None, geometry)
        grad_hidden = _gradients(g, hidden, pointwise, point, [True, False, False])[0]
        grad = _gradients(grad_hidden, x, spatial, geometry, [True, False, False])[0]  # type: ignore[arg-type]
    return factors.scale * grad  # type: ignore[operator, return-value]


def convolution(managed: ManagedWeight, x: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor | None:
    """Return a convolution with a managed weight.

    Args:
        managed: The weight.
        x: (n, in, *spatial) or (in, *spatial).
        bias: (out,).
        geometry: Stride, padding and so on.

    Returns:
        (n, out, *spatial) or (out, *spatial); None if only the library's own path (or its own error) will do.
    """
    n = len(geometry.stride)
    if x.dim() == n + 1:
        y = convolution(managed, x.unsqueeze(0), bias, geometry)
        return y if y is None else y.squeeze(0)
    if x.dim() != n + 2 or len(managed.shape) != n + 2:
        return None
    cast = compute_dtype(x, managed.dtype)
    if cast is not None:
        x = x.to(cast)
        bias = bias if bias is None else bias.to(cast)
    dtype = managed.dtype if cast is None else cast
    if x.dtype is not dtype:
        return None
    updates = managed.active_updates()
    low_rank = managed.factors()
    if low_rank is None:
        return None if transforms_active() else _scaled(managed, x, bias, dtype, geometry)
    if transforms_active():
        return _convolve(x, managed.dense(dtype), bias, geometry)
    base = base_tensors(managed)
    if managed.training and any(update.dropout for update in updates):
        y = _apply(x, bias, base, None, geometry)
        for update, factors in zip(updates, low_rank, strict=True):
            typed = Factors(factors.left.to(dtype), factors.right.to(dtype), factors.scale)
            y = y + _low_rank_output(F.dropout(x, update.dropout), typed, managed.shape, geometry)
        return y
    return _apply(x, bias, base, join(low_rank, dtype), geometry)


def _scaled(
    managed: ManagedWeight, x: Tensor, bias: Tensor | None, dtype: torch.dtype, geometry: Geometry
) -> Tensor | None:
    """Return `convolution` for an update that scales output and input channels; None if it does anything else."""
    if geometry.groups != 1 or geometry.transposed != managed.layout.transposed:
        return None
    scaling = managed.scaling()
    if scaling is None:
        return None
    factors, outputs, inputs = scaling
    ones = [1] * len(geometry.stride)
    if inputs is not None:
        x = x * inputs.to(dtype).view(-1, *ones)  # (n, in, *spatial)
    y = _apply(x, None, base_tensors(managed), join([] if factors is None else [factors], dtype), geometry)
    if outputs is not None:
        y = y * outputs.to(dtype).view(-1, *ones)  # (n, out, *spatial)
    return y if bias is None else y + bias.view(-1, *ones)


def _apply(x: Tensor, bias: Tensor | None, base: BaseTensors, factors: Factors | None, geometry: Geometry) -> Tensor:
    if not needs_graph(x, bias, base, factors) or (factors is None and base.codec is None):
        return _forward(x, bias, base, factors, geometry)
    left, right, scale = factors or (None, None, 1.0)
    return _Convolution.apply(x, bias, left, right, scale, geometry, base.codec, base.shape, *base.tensors)


def _spread(value: int | tuple[int, ...], n: int) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * n
    value = tuple(value)
    return value * n if len(value) == 1 else value


def conv(n: int):  # type: ignore[no-untyped-def]
    """Return the replacement of `torch.nn.functional.conv{n}d` that takes a managed weight."""

    def convnd(  # type: ignore[no-untyped-def]
        managed: ManagedWeight, input: Tensor, bias=None, stride=1, padding=0, dilation=1, groups: int = 1
    ) -> Tensor | None:
        dilation = _spread(dilation, n)
        if isinstance(padding, str):
            if padding == "valid":
                padding = 0
            elif padding == "same" and set(_spread(stride, n)) == {1}:
                # As in torch, the extra value of an odd padding goes to the end.
                total = [d * (k - 1) for d, k in zip(dilation, managed.shape[2:], strict=False)]
                if any(size % 2 for size in total):
                    ends = [side for size in reversed(total) for side in (0, size % 2)]
                    input = F.pad(input, ends)
                padding = tuple(size // 2 for size in total)
            else:
                return None
        geometry = Geometry(_spread(stride, n), _spread(padding, n), dilation, False, (0,) * n, groups)
        return convolution(managed, input, bias, geometry)

    return convnd


def conv_transpose(n: int):  # type: ignore[no-untyped-def]
    """Return the replacement of `torch.nn.functional.conv_transpose{n}d` that takes a managed weight."""

    def conv_transposend(  # type: ignore[no-untyped-def]
        managed: ManagedWeight,
        input: Tensor,
        bias=None,
        stride=1,
        padding=0,
        output_padding=0,
        groups: int = 1,
        dilation=1,
    ) -> Tensor | None:
        sizes = (_spread(value, n) for value in (stride, padding, dilation))
        stride, padding, dilation = sizes
        geometry = Geometry(stride, padding, dilation, True, _spread(output_padding, n), groups)
        return convolution(managed, input, bias, geometry)

    return conv_transposend
