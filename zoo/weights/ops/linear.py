"""Products with a managed weight: linear, addmm, mm, matmul. One autograd function that saves nothing dense."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.weights.ops.base import (
    Base,
    base_of,
    compute_dtype,
    dense_of,
    fold,
    join,
    needs_graph,
    prefer_folding,
    transforms_active,
)
from zoo.weights.packed import Codec
from zoo.weights.store import Store
from zoo.weights.update import Factors


def _forward(x: Tensor, bias: Tensor | None, base: Base, factors: Factors | None, flip: bool) -> Tensor:
    """x @ W.T + bias, or with ``flip`` x @ W + bias. x: (..., in) → (..., out)."""
    if factors is None:
        weight = dense_of(base.codec, base.shape, x.dtype, base.tensors)
        return F.linear(x, weight.t() if flip else weight, bias)
    rows, columns = base.shape
    if prefer_folding(x.numel() // max(x.shape[-1], 1), rows, columns, x.dtype):
        weight = fold(base.codec, base.shape, base.tensors, factors)
        return F.linear(x, weight.t() if flip else weight, bias)
    weight = dense_of(base.codec, base.shape, x.dtype, base.tensors)
    y = F.linear(x, weight.t() if flip else weight, bias)
    return beside(y, x, factors, flip)


def beside(y: Tensor, x: Tensor, factors: Factors, flip: bool) -> Tensor:
    """y + scale · (x @ right.T) @ left.T, or with ``flip`` (x @ left) @ right: the update without forming ΔW."""
    left, right, scale = factors
    down, up = (left, right) if flip else (right.t(), left.t())
    hidden = x.reshape(-1, x.shape[-1]) @ down  # (positions, rank)
    return torch.addmm(y.reshape(-1, y.shape[-1]), hidden, up, alpha=scale).view(y.shape)


class _Linear(torch.autograd.Function):
    """Saves x, the factors and the base as it is stored; the dense weight is made again in backward."""

    @staticmethod
    def forward(  # type: ignore[override]
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
        factors = None if left is None or right is None else Factors(left, right, scale)
        return _forward(x, bias, Base(codec, shape, tensors), factors, flip)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
        x, bias, left, right, scale, flip, codec, shape, *tensors = inputs
        trains = left is not None and (left.requires_grad or right.requires_grad)
        keep_x = trains or tensors[0].requires_grad
        ctx.save_for_backward(x if keep_x else None, left, right, *tensors)
        ctx.scale, ctx.flip, ctx.codec, ctx.shape = scale, flip, codec, shape
        ctx.bias_dtype = None if bias is None else bias.dtype

    @staticmethod
    def backward(ctx, g: Tensor):  # type: ignore[no-untyped-def, override]
        x, left, right, *tensors = ctx.saved_tensors
        scale, flip, codec, shape = ctx.scale, ctx.flip, ctx.codec, ctx.shape
        need_x, need_bias, need_left, need_right = ctx.needs_input_grad[:4]
        need_base = ctx.needs_input_grad[8]
        rows, columns = shape
        flat = g.reshape(-1, g.shape[-1])
        positions = flat.shape[0]
        grad_x = grad_bias = grad_left = grad_right = grad_base = None
        x2 = None if x is None else x.reshape(-1, x.shape[-1])
        # In W's own layout: out-side activations meet rows, in-side ones columns; with flip the other way round.
        by_rows, by_columns = (x2, flat) if flip else (flat, x2)
        hidden = None
        if left is not None and (need_left or need_right or need_x):
            hidden = flat @ (right.t() if flip else left)  # (positions, rank)
        if need_x:
            if left is not None and prefer_folding(positions, rows, columns, g.dtype):
                weight = fold(codec, shape, tuple(tensors), Factors(left, right, scale))
                grad_x = flat @ (weight.t() if flip else weight)
            else:
                weight = dense_of(codec, shape, g.dtype, tuple(tensors))
                grad_x = flat @ (weight.t() if flip else weight)
                if left is not None:
                    grad_x = torch.addmm(grad_x, hidden, left.t() if flip else right, alpha=scale)
            grad_x = grad_x.view(*g.shape[:-1], grad_x.shape[-1])
        if need_bias:
            grad_bias = flat.sum(0).to(ctx.bias_dtype)
        if need_left or need_right:
            inner = x2 @ (left if flip else right.t())  # (positions, rank)
            if need_left:
                grad_left = scale * (by_rows.t() @ (hidden if flip else inner))
            if need_right:
                grad_right = scale * ((inner if flip else hidden).t() @ by_columns)
        if need_base:
            grad_base = (by_rows.t() @ by_columns).to(tensors[0].dtype)
        return (grad_x, grad_bias, grad_left, grad_right, None, None, None, None, grad_base, *[None] * (len(tensors) - 1))


def linear(store: Store, x: Tensor, bias: Tensor | None = None, *, flip: bool = False) -> Tensor:
    """x @ W.T + bias for a two-dimensional weight (``flip``: x @ W + bias). x: (..., in) → (..., out)."""
    if len(store.shape) != 2:
        return F.linear(x, store.dense(), bias)
    cast = compute_dtype(x, store.dtype)
    if cast is not None:
        x = x.to(cast)
        bias = bias if bias is None else bias.to(cast)
    updates = store.in_use()
    dtype = store.dtype if cast is None else cast
    if x.dtype is not dtype or not x.dim():
        # The library's own error for mixed types and scalars.
        weight = store.dense(dtype)
        return F.linear(x, weight.t() if flip else weight, bias)
    if not updates and (dense := store.plain()) is not None and cast is None:
        return F.linear(x, dense.t() if flip else dense, bias)
    found = store.factors()
    if found is None or transforms_active():
        weight = store.dense(dtype)
        return F.linear(x, weight.t() if flip else weight, bias)
    base = base_of(store)
    if store.training and any(update.dropout for update in updates):
        y = _apply(x, bias, base, None, flip)
        for update, factors in zip(updates, found, strict=True):
            dropped = F.dropout(x, update.dropout)
            y = beside(y, dropped, Factors(factors.left.to(dtype), factors.right.to(dtype), factors.scale), flip)
        return y
    return _apply(x, bias, base, join(found, dtype), flip)


def _apply(x: Tensor, bias: Tensor | None, base: Base, factors: Factors | None, flip: bool) -> Tensor:
    if not needs_graph(x, bias, base, factors):
        return _forward(x, bias, base, factors, flip)
    left, right, scale = factors or (None, None, 1.0)
    return _Linear.apply(x, bias, left, right, scale, flip, base.codec, base.shape, *base.tensors)


def addmm(
    store: Store, bias: Tensor, x: Tensor, *, beta: float = 1, alpha: float = 1, flip: bool = True
) -> Tensor | None:
    """bias + x @ W for a one-dimensional bias, as transformers' ``Conv1D`` computes it; None for any other form."""
    if beta != 1 or alpha != 1 or bias.dim() != 1 or x.dim() != 2 or len(store.shape) != 2:
        return None
    return linear(store, x, bias, flip=flip)


def matmul(store: Store, x: Tensor) -> Tensor | None:
    """x @ W for a two-dimensional weight; None for any other form."""
    if len(store.shape) != 2 or x.dim() < 1 or x.shape[-1] != store.shape[0]:
        return None
    return linear(store, x, None, flip=True)


def matmul_left(store: Store, x: Tensor) -> Tensor | None:
    """W @ x, computed as (x.T @ W.T).T; None for other forms than a two-dimensional weight and x of (..., in, n)."""
    if len(store.shape) != 2 or x.dim() < 2 or x.shape[-2] != store.shape[1]:
        return None
    return linear(store, x.mT).mT
