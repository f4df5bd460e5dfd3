"""Convolutions, plain and transposed, with a managed weight, by one autograd function that saves nothing dense.

See `base.py` for the notation. Shapes:
    x, y   (n, in, *spatial) and (n, out, *spatial)
    W      (out, in / groups, *kernel); of a transposed convolution (in, out / groups, *kernel)
    r      groups · rank, the channels between the two kernels of a low-rank update
"""

from __future__ import annotations

from typing import Any

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
    transforms_active,
)
from zoo.weights.ops.conv_choice import Plan, Way, plan
from zoo.weights.ops.conv_low_rank import Wanted, add_output, backward, delta, from_dense
from zoo.weights.ops.geometry import Geometry, convolve, gradients, plus
from zoo.weights.ops.rows import by_row
from zoo.weights.quantized_tensor import Codec
from zoo.weights.row_views import RowViews
from zoo.weights.update import Factors


def _forward(
    x: Tensor, bias: Tensor | None, base: BaseTensors, factors: Factors | None, geometry: Geometry, how: Plan | None
) -> tuple[Tensor, Tensor | None]:
    """Return the convolution, and the channels between the factors if it computed them."""
    dtype = x.dtype
    if how is None or factors is None:
        return convolve(x, dense_of(base.codec, base.shape, dtype, base.tensors, x), bias, geometry), None
    if how.dtype is not dtype:
        x, bias = x.to(how.dtype), None if bias is None else bias.to(how.dtype)
    if how.folded:
        y, hidden = convolve(x, fold(base.codec, base.shape, base.tensors, factors), bias, geometry), None
    else:
        y = convolve(x, dense_of(base.codec, base.shape, x.dtype, base.tensors, x), bias, geometry)
        y, hidden = add_output(y, x, factors, base.shape, geometry, how)
    return y if how.dtype is dtype else y.to(dtype), hidden


def _typed(left: Tensor, right: Tensor, scale: float, how: Plan) -> Factors:
    return Factors(left.to(how.dtype), right.to(how.dtype), scale)


class _Convolution(torch.autograd.Function):
    """Saves x, the factors and the base as they are stored; the dense weight is recomputed in the backward pass.

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
        how: Plan | None,
        *tensors: Tensor,
    ) -> Tensor:
        trains = left is not None and right is not None and (left.requires_grad or right.requires_grad)
        keep_x = trains or tensors[0].requires_grad
        ctx.scale, ctx.geometry, ctx.codec, ctx.shape, ctx.how = scale, geometry, codec, shape, how
        ctx.x_form = (x.shape, x.stride())
        ctx.bias_dtype = None if bias is None else bias.dtype
        factors = None if left is None or right is None or how is None else _typed(left, right, scale, how)
        y, hidden = _forward(x, bias, BaseTensors(codec, shape, tensors), factors, geometry, how)
        kept = hidden if how is not None and how.keeps and trains else None
        ctx.save_for_backward(x if keep_x else None, kept, left, right, *tensors)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, hidden, left, right, *tensors = ctx.saved_tensors
        geometry, codec, shape, how = ctx.geometry, ctx.codec, ctx.shape, ctx.how
        if x is None:  # only its gradient is needed, and aten's backward then reads only the shape and strides of x
            x = g.new_empty_strided(*ctx.x_form)
        dtype = x.dtype
        if how is not None and how.dtype is not dtype:
            g, x = g.to(how.dtype), x.to(how.dtype)
        need_x, need_bias, need_left, need_right = ctx.needs_input_grad[:4]
        need_base = ctx.needs_input_grad[9]
        need_factors = need_left or need_right
        factors: Any = None if left is None else _typed(left, right, ctx.scale, how)
        dense = need_base or (need_factors and how.way is Way.DENSE)
        folded = factors is not None and how.folded
        grad_x: Any = None
        grad_bias = grad_left = grad_right = grad_base = None
        if need_x or dense:
            if not need_x:  # aten then reads only the weight's shape; an expanded scalar takes no memory
                weight = g.new_zeros(()).expand(shape)
            elif folded:
                weight = fold(codec, shape, tuple(tensors), factors)
            else:
                weight = dense_of(codec, shape, g.dtype, tuple(tensors), x)
            grad_weight: Any
            grad_x, grad_weight = gradients(g, x, weight, geometry, need_x, dense)
            if need_base:
                grad_base = grad_weight.to(tensors[0].dtype)
            if dense and need_factors:
                grad_left, grad_right = from_dense(grad_weight, factors, shape, need_left, need_right)
        if factors is not None and need_x and not folded and how.way is Way.DENSE:
            part: Any = gradients(g, x, delta(factors, shape), geometry, True, False)[0]
            grad_x = plus(grad_x, part)
        elif factors is not None and ((need_factors and not dense) or (need_x and not folded)):
            if torch.is_grad_enabled():  # a second derivative: through convolutions, and from x itself
                hidden, how = None, how._replace(way=Way.KERNELS)
            wanted = Wanted(need_left and not dense, need_right and not dense, None if folded else grad_x)
            part, *others = backward(g, x, hidden, factors, shape, geometry, how, wanted)
            grad_x = grad_x if folded else part
            if not dense:
                grad_left, grad_right = others
        if need_bias:
            grad_bias = g.sum([0, *range(2, g.dim())]).to(ctx.bias_dtype)  # (out,)
        if need_x and grad_x.dtype is not dtype:
            grad_x = grad_x.to(dtype)
        rest = [None] * (len(tensors) - 1)
        return grad_x, grad_bias, grad_left, grad_right, None, None, None, None, None, grad_base, *rest


def convolution(managed: ManagedWeight | RowViews, x: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor | None:
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
    if isinstance(managed, RowViews):
        return _by_row(managed, x, bias, geometry)
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
    if transforms_active() or not x.numel():
        return convolve(x, managed.dense(dtype), bias, geometry)
    base = base_tensors(managed)
    if managed.training and any(update.dropout for update in updates):
        y = _apply(x, bias, base, [], geometry)
        for update, factors in zip(updates, low_rank, strict=True):
            typed = Factors(factors.left.to(dtype), factors.right.to(dtype), factors.scale)
            how = plan(x, managed.shape, typed.right.shape[0], geometry)
            if how.way is Way.SHIFTS:  # a graph is recorded
                how = how._replace(way=Way.KERNELS)
            y = add_output(y, F.dropout(x, update.dropout), typed, managed.shape, geometry, how)[0]
        return y
    return _apply(x, bias, base, low_rank, geometry)


def _by_row(weight: RowViews, x: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """Return `convolution` with another weight for each row: (count, in, *spatial) → (count, out, *spatial)."""

    def whole(view: ManagedWeight, x: Tensor) -> Tensor:
        y = convolution(view, x, bias, geometry)
        return convolve(x, view.dense(), bias, geometry) if y is None else y

    def add(y: Tensor, x: Tensor, factors: list[Factors]) -> Tensor:
        x = x if x.dtype is y.dtype else x.to(y.dtype)
        how = plan(x, weight.shape, sum(one.right.shape[0] for one in factors), geometry)
        joined = join(factors, y.dtype)
        return y if joined is None else add_output(y, x, joined, weight.shape, geometry, how)[0]

    return by_row(weight, x, len(geometry.stride) + 2, whole, add)


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
    y = _apply(x, None, base_tensors(managed), [] if factors is None else [factors], geometry)
    if outputs is not None:
        y = y * outputs.to(dtype).view(-1, *ones)  # (n, out, *spatial)
    return y if bias is None else y + bias.view(-1, *ones)


def _apply(x: Tensor, bias: Tensor | None, base: BaseTensors, low_rank: list[Factors], geometry: Geometry) -> Tensor:
    how, factors = None, None
    if low_rank:
        how = plan(x, base.shape, sum(one.right.shape[0] for one in low_rank), geometry)
        factors = low_rank[0] if len(low_rank) == 1 else join(low_rank, how.dtype)
    if not needs_graph(x, bias, base, factors) or (factors is None and base.codec is None):
        typed = None if factors is None or how is None else _typed(*factors, how)
        return _forward(x, bias, base, typed, geometry, how)[0]
    left, right, scale = factors or (None, None, 1.0)
    return _Convolution.apply(x, bias, left, right, scale, geometry, base.codec, base.shape, how, *base.tensors)


def _spread(value: int | tuple[int, ...], n: int) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * n
    value = tuple(value)
    return value * n if len(value) == 1 else value


def conv(n: int):  # type: ignore[no-untyped-def]
    """Return the replacement of `torch.nn.functional.conv{n}d` that takes a managed weight."""

    def convnd(  # type: ignore[no-untyped-def]
        managed: ManagedWeight | RowViews, input: Tensor, bias=None, stride=1, padding=0, dilation=1, groups: int = 1
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
        managed: ManagedWeight | RowViews,
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
