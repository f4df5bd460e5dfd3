"""Products with a managed weight: linear, addmm, mm, matmul, by one autograd function that saves nothing dense.

See `base.py` for the notation. `flip` selects x @ W instead of x @ W.T, as transformers' `Conv1D` needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.offload import HOOK
from zoo.weights.ops.base import (
    BaseTensors,
    add_product,
    base_tensors,
    compute_dtype,
    dense_of,
    fold,
    fresh,
    join,
    needs_graph,
    prefer_dense_gradient,
    prefer_folding,
    transforms_active,
)
from zoo.weights.ops.rows import by_row
from zoo.weights.ops.stacked import stack_of
from zoo.weights.quantized_tensor import Codec
from zoo.weights.row_views import Group, RowViews
from zoo.weights.triton import fused as triton
from zoo.weights.triton.paths import enabled
from zoo.weights.update import Factors

# `BaseTensors` as a plain tuple: making one more object costs a small layer as much as a look-up of its weight.
Base = tuple[Codec | None, torch.Size, tuple[Tensor, ...]]


def _forward(x: Tensor, bias: Tensor | None, base: Base, factors: Factors | None, flip: bool) -> Tensor:
    """Return x @ W.T + bias, or with `flip` x @ W + bias. x: (..., in) → (..., out)."""
    codec, shape, tensors = base
    fused = None if factors is None else _fused(x, bias, base, factors, flip)  # the base alone: `_base_product`
    if fused is not None:
        y = fused
    elif factors is not None and prefer_folding(x.numel() // (x.shape[-1] or 1), shape[0], shape[1], x.dtype):
        weight = fold(codec, shape, tensors, factors)
        y = F.linear(x, weight.t() if flip else weight, bias)
    else:
        y = _base_product(x, bias, base, flip)
        y = y if factors is None else add_low_rank(y, x, factors, flip)
    return y if y.dim() == 2 else fresh(y)


def _fused(x: Tensor, bias: Tensor | None, base: Base, factors: Factors | None, flip: bool) -> Tensor | None:
    """Return `_forward` by one of the Triton kernels; None if none is in force or fits."""
    codec, shape, tensors = base
    if codec is None or not enabled(x.device) or (bias is not None and bias.dtype is not x.dtype):
        return None
    y = triton.product(codec, shape, tensors, x.reshape(-1, x.shape[-1]), bias, factors, flip)
    return y if y is None or x.dim() == 2 else y.view(*x.shape[:-1], y.shape[1])


def _base_product(x: Tensor, bias: Tensor | None, base: Base, flip: bool) -> Tensor:
    """Return the base's share of `_forward`, the caller's own tensor: by the codec's product, else the dense weight."""
    codec, shape, tensors = base
    fused = _fused(x, bias, base, None, flip)
    if fused is not None:
        return fused
    product = getattr(codec, "product", None)
    # What does not fit gets torch's own error from the dense weight.
    if product is not None and x.shape[-1] == shape[0 if flip else 1] and (bias is None or bias.dtype is x.dtype):
        y: Tensor | None = product(tensors, shape, x if x.dim() == 2 else x.reshape(-1, x.shape[-1]), flip, bias)
        if y is not None:
            return y if x.dim() == 2 else y.view(*x.shape[:-1], y.shape[1])
    weight = dense_of(codec, shape, x.dtype, tensors)
    return F.linear(x, weight.t() if flip else weight, bias)


def add_low_rank(y: Tensor, x: Tensor, factors: Factors, flip: bool) -> Tensor:
    """Return y + scale · (x @ right.T) @ left.T, or with `flip` y + scale · (x @ left) @ right, without forming ΔW.

    x: (..., in), y: (..., out).
    """
    left, right, scale = factors
    down, up = (left, right) if flip else (right.t(), left.t())  # (in, rank), (rank, out)
    flat = y if y.dim() == 2 else y.reshape(-1, y.shape[-1])
    changed, _ = _add_through(flat, x.reshape(-1, x.shape[-1]), down, up, scale)
    return changed if y.dim() == 2 else changed.view(y.shape)


def _add_through(y: Tensor, x: Tensor, down: Tensor, up: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Return y + scale · hidden @ up and hidden = x @ down; y is the caller's own tensor, as for `add_product`."""
    if enabled(x.device):
        hidden = triton.add_low_rank(y, x, down, up, scale)
        if hidden is not None:
            return y, hidden
    hidden = x.mm(down)  # (positions, rank)
    return add_product(y, hidden, up, scale), hidden


class _Linear(torch.autograd.Function):
    """Saves x, the factors and the base as it is stored; the dense weight is recomputed in the backward pass.

    It has no `setup_context`, which would cost a small layer more than its arithmetic; only functorch's transforms need
    one, and `linear` takes the dense weight under them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        bias: Tensor | None,
        left: Tensor | None,
        right: Tensor | None,
        scale: float,
        flip: bool,
        codec: Codec | None,
        shape: torch.Size,
        *tensors: Tensor,
    ) -> Tensor:
        trains = left is not None and right is not None and (left.requires_grad or right.requires_grad)
        keep_x = trains or tensors[0].requires_grad
        ctx.save_for_backward(x if keep_x else None, left, right, *tensors)
        ctx.scale, ctx.flip, ctx.codec, ctx.shape = scale, flip, codec, shape
        ctx.bias_dtype = None if bias is None else bias.dtype
        factors = None if left is None or right is None else Factors(left, right, scale)
        return _forward(x, bias, (codec, shape, tensors), factors, flip)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, left, right, *tensors = ctx.saved_tensors
        scale, flip, codec, shape = ctx.scale, ctx.flip, ctx.codec, ctx.shape
        need_x, need_bias, need_left, need_right, _, _, _, _, need_base, *others = ctx.needs_input_grad
        flat = g.reshape(-1, g.shape[-1])  # (positions, out)
        grad_x = grad_bias = grad_left = grad_right = grad_base = None
        hidden: Any = None
        rank = 0 if left is None else left.shape[1]
        rows, columns = shape
        folded = rank and prefer_folding(flat.shape[0], rows, columns, g.dtype)
        dense = need_base or (rank and (need_left or need_right) and prefer_dense_gradient(rows, columns, g.dtype))
        if need_x:
            if folded:
                weight = fold(codec, shape, tuple(tensors), Factors(left, right, scale))
                grad_x = flat.mm(weight.t() if flip else weight)  # (positions, in)
            else:
                grad_x = _base_product(flat, None, (codec, shape, tuple(tensors)), not flip)
            if rank and not folded:
                down, up = (right.t(), left.t()) if flip else (left, right)  # (out, rank), (rank, in)
                grad_x, hidden = _add_through(grad_x, flat, down, up, scale)
            grad_x = grad_x.view(*g.shape[:-1], grad_x.shape[-1])
        if need_bias:
            grad_bias = flat.sum(0).to(ctx.bias_dtype)  # (out,)
        if need_left or need_right or need_base:
            # In W's own layout: the output's gradient pairs with rows, the input with columns; reversed by `flip`.
            x2 = x.reshape(-1, x.shape[-1])  # (positions, in)
            by_rows, by_columns = (x2, flat) if flip else (flat, x2)  # (positions, rows), (positions, columns)
            if dense:
                grad_weight = by_rows.t().mm(by_columns)  # (rows, columns)
                grad_left = grad_weight.mm(right.t()) * scale if need_left else None  # (rows, rank)
                grad_right = left.t().mm(grad_weight) * scale if need_right else None  # (rank, columns)
                grad_base = grad_weight.to(tensors[0].dtype) if need_base else None
            else:
                if hidden is None and (need_left if flip else need_right):
                    hidden = flat.mm(right.t() if flip else left)  # (positions, rank)
                if need_left:
                    inner = hidden if flip else x2.mm(right.t())  # (positions, rank)
                    grad_left = by_rows.t().mm(inner) * scale  # (rows, rank)
                if need_right:
                    inner = x2.mm(left) if flip else hidden  # (positions, rank)
                    grad_right = inner.t().mm(by_columns) * scale  # (rank, columns)
        return grad_x, grad_bias, grad_left, grad_right, None, None, None, None, grad_base, *[None] * len(others)


def linear(
    managed: ManagedWeight | RowViews,
    x: Tensor,
    bias: Tensor | None = None,
    *,
    flip: bool = False,
    follow: bool = False,
) -> Tensor | None:
    """Return x @ W.T + bias for a two-dimensional weight, or with `flip` x @ W + bias.

    Args:
        managed: The weight.
        x: (..., in).
        bias: (out,).
        flip: Whether the weight is (in, out).
        follow: Whether a quantized weight is dequantized to the dtype of x, whatever its own is.

    Returns:
        (..., out); None if only the dense weight can serve, or the library's own error (mixed dtypes, scalars).
    """
    shape = managed.shape
    if len(shape) != 2 or not x.dim():
        return None
    if isinstance(managed, RowViews):
        return _by_row(managed, x, bias, flip, follow)
    dense, updates = managed.effective_base(), managed.active_updates()
    if dense is None:
        packed = managed.quantized_base()
        base: Base = (packed.codec, shape, packed.tensors())
        dtype = x.dtype if follow else packed.dtype
    else:
        base, dtype = (None, shape, (dense,)), dense.dtype
    cast = compute_dtype(x, dtype)
    if cast is not None:
        x = x.to(cast)
        bias = bias if bias is None else bias.to(cast)
        dtype = cast
    if x.dtype is not dtype:
        return None
    if dense is not None and not updates and cast is None:
        return F.linear(x, dense.t() if flip else dense, bias)
    if transforms_active():
        return None
    only = managed.only_update()
    if only is not None and HOOK not in only.__dict__ and not (only.dropout and managed.training):
        alone = only.factors()  # the common case, without the lists of the general one
        if alone is None:
            return _scaled(managed, x, bias, dtype, flip)
        return _apply(x, bias, base, alone if alone.left.dtype is dtype else join([alone], dtype), flip)
    low_rank = managed.factors()
    if low_rank is None:
        return _scaled(managed, x, bias, dtype, flip)
    if managed.training and any(update.dropout for update in updates):
        y = _apply(x, bias, base, None, flip)
        for update, factors in zip(updates, low_rank, strict=True):
            dropped = F.dropout(x, update.dropout)
            y = add_low_rank(y, dropped, Factors(factors.left.to(dtype), factors.right.to(dtype), factors.scale), flip)
        return y if y.dim() == 2 else fresh(y)
    return _apply(x, bias, base, join(low_rank, dtype), flip)


def _by_row(weight: RowViews, x: Tensor, bias: Tensor | None, flip: bool, follow: bool) -> Tensor:
    """Return `linear` with another weight for each row: (count, ..., in) → (count, ..., out)."""

    def whole(view: ManagedWeight, x: Tensor) -> Tensor:
        y = linear(view, x, bias, flip=flip, follow=follow)
        if y is None:  # the update is of no form that products know
            dense = view.dense(x.dtype if follow else None)
            y = F.linear(x, dense.t() if flip else dense, bias)
        return y

    def add(y: Tensor, x: Tensor, factors: list[Factors]) -> Tensor:
        joined = join(factors, y.dtype)
        return y if joined is None else add_low_rank(y, x if x.dtype is y.dtype else x.to(y.dtype), joined, flip)

    def stacked(y: Tensor, x: Tensor) -> Sequence[Group]:
        stack = stack_of(weight, y.dtype, y.device)
        if stack is None:
            return weight.groups
        stack.add(y, x if x.dtype is y.dtype else x.to(y.dtype), flip)
        return stack.rest

    count = weight.count
    if weight.flattened and x.dim() == 2 and count < x.shape[0] and x.shape[0] % count == 0:
        return by_row(weight, x.reshape(count, -1, x.shape[1]), 3, whole, add, stacked).flatten(0, 1)
    return by_row(weight, x, 2, whole, add, stacked)


def _apply(x: Tensor, bias: Tensor | None, base: Base, factors: Factors | None, flip: bool) -> Tensor:
    if not torch.is_grad_enabled() or not needs_graph(x, bias, BaseTensors(*base), factors):
        return _forward(x, bias, base, factors, flip)
    left, right, scale = factors or (None, None, 1.0)
    return _Linear.apply(x, bias, left, right, scale, flip, base[0], base[1], *base[2])


def _scaled(managed: ManagedWeight, x: Tensor, bias: Tensor | None, dtype: torch.dtype, flip: bool) -> Tensor | None:
    """Return `linear` for an update that scales outputs and inputs; None if it does anything else."""
    scaling = managed.scaling()
    if scaling is None:
        return None
    factors, outputs, inputs = scaling
    if flip != managed.layout.transposed:  # not the orientation in which its layer uses it
        outputs, inputs = inputs, outputs
    if inputs is not None:
        x = x * inputs.to(dtype)  # (..., in)
    y = _apply(x, None, base_tensors(managed), join([] if factors is None else [factors], dtype), flip)
    if outputs is not None:
        y = y * outputs.to(dtype)  # (..., out)
    return y if bias is None else y + bias


def addmm(
    managed: ManagedWeight | RowViews, bias: Tensor, x: Tensor, *, beta: float = 1, alpha: float = 1
) -> Tensor | None:
    """Return bias + x @ W for a one-dimensional bias, as transformers' `Conv1D` computes it; None for other forms."""
    if beta != 1 or alpha != 1 or bias.dim() != 1 or x.dim() != 2 or len(managed.shape) != 2:
        return None
    return linear(managed, x, bias, flip=True)


def matmul(managed: ManagedWeight | RowViews, x: Tensor) -> Tensor | None:
    """Return x @ W for a two-dimensional weight; None for other forms."""
    if len(managed.shape) != 2 or x.dim() < 1 or x.shape[-1] != managed.shape[0]:
        return None
    return linear(managed, x, None, flip=True)


def matmul_left(managed: ManagedWeight | RowViews, x: Tensor) -> Tensor | None:
    """Return W @ x for a two-dimensional weight and x (in,) or (..., in, n), as x.T @ W.T; None for other forms."""
    if len(managed.shape) != 2 or x.dim() < 1 or x.shape[-1 if x.dim() == 1 else -2] != managed.shape[1]:
        return None
    if x.dim() == 1:
        return linear(managed, x)
    if isinstance(managed, RowViews):
        managed.check(x, 3)  # of (in, n) the rows are no samples
    y = linear(managed, x.mT)  # (..., n, out)
    # In memory as torch.matmul's result, which callers may view.
    return y if y is None else y.mT.clone(memory_format=torch.contiguous_format)
