"""Embedding look-up in a managed weight: only the rows that are looked up are dequantized."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.errors import WeightError
from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.offload import call
from zoo.weights.ops.base import fresh, join, transforms_active
from zoo.weights.ops.rows import by_row
from zoo.weights.row_views import RowViews
from zoo.weights.update import Factors, without_autocast

RENORM = (
    "an embedding with max_norm rewrites its weight at every use, which a quantized or adapted weight cannot "
    "follow: set max_norm=None, or leave the weight out with targets= and keep="
)


def refuse_renorm(*args: Any, max_norm: float | None = None, **kwargs: Any) -> None:
    """Raise `WeightError` for `max_norm`, as `embedding` does; `embedding_bag` uses the dense weight otherwise."""
    if max_norm is not None or (len(args) > 3 and args[3] is not None):
        raise WeightError(RENORM)


def embedding(
    managed: ManagedWeight | RowViews,
    index: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """Compute `torch.nn.functional.embedding` with a managed weight.

    Args:
        managed: The weight, (num_embeddings, features).
        index: (...), integers.
        padding_idx: As in torch, like all other arguments.
        max_norm: None; see Raises.
        norm_type: Unused without `max_norm`.
        scale_grad_by_freq: As in torch.
        sparse: As in torch.

    Returns:
        (..., features).

    Raises:
        WeightError: `max_norm` is given, which would write to the weight.
    """
    if max_norm is not None:
        raise WeightError(RENORM)
    if isinstance(managed, RowViews):
        return _by_row(managed, index)
    updates = managed.active_updates()
    low_rank = managed.factors()
    dense = managed.effective_base()
    needs_dense = len(managed.shape) != 2 or transforms_active() or scale_grad_by_freq
    needs_dense = needs_dense or (managed.training and any(update.dropout for update in updates))
    only = managed.only_update() if low_rank is None and not (needs_dense or sparse) else None
    if only is not None:
        y = _rows(managed, index) if dense is None else F.embedding(index, dense)
        changed = call(only, only.look_up, index, y)
        if changed is not None:
            if padding_idx is None:
                return changed
            padding = (index == padding_idx % managed.shape[0]).unsqueeze(-1)  # (..., 1): its row takes no gradient
            return torch.where(padding, changed.detach(), changed)
    if low_rank is None or needs_dense:
        # scale_grad_by_freq divides the weight's gradient row by row, which needs the dense weight's gradient.
        return F.embedding(index, managed.dense(), padding_idx, None, norm_type, scale_grad_by_freq, sparse)
    if dense is not None:
        y = F.embedding(index, dense, padding_idx, None, norm_type, scale_grad_by_freq, sparse)
    else:
        y = _rows(managed, index)
    factors = join(low_rank, managed.dtype)
    if factors is None:
        return y
    flat = _added(y, index, factors)  # (positions, features)
    if padding_idx is not None:
        # The padding row takes no gradient, neither in its row of `left` nor in `right`, which all rows share.
        padding_idx %= managed.shape[0]  # -1 is the last row
        flat = torch.where((index == padding_idx).reshape(-1, 1), flat.detach(), flat)  # (positions, features)
    return fresh(flat.view(y.shape))


def _added(y: Tensor, index: Tensor, factors: Factors) -> Tensor:
    """Return rows (..., features) at `index` (...) with a low-rank update, as (positions, features)."""
    hidden = F.embedding(index, factors.left)  # (..., rank)
    rows = y.reshape(-1, y.shape[-1])
    with without_autocast(y):
        return torch.addmm(rows, hidden.reshape(-1, hidden.shape[-1]), factors.right, alpha=factors.scale)


def _by_row(weight: RowViews, index: Tensor) -> Tensor:
    """Return `embedding` with another weight for each row: (count, ...) → (count, ..., features)."""
    if weight.flattened and index.dim() > 1 and index.shape[0] == 1:
        index = index.expand(weight.count, *index.shape[1:])

    def add(y: Tensor, index: Tensor, factors: list[Factors]) -> Tensor:
        joined = join(factors, y.dtype)
        return y if joined is None else _added(y, index, joined).view(y.shape)

    return by_row(weight, index, 1, lambda view, index: embedding(view, index), add, needs_dense=False)


def _rows(managed: ManagedWeight, index: Tensor) -> Tensor:
    """Return the quantized base's rows at `index`: (...) → (..., features)."""
    packed = managed.quantized_base()
    width = packed.shape[1]
    rows = getattr(packed.codec, "rows", None)
    if rows is not None and index.numel() < packed.shape[0]:
        bounds = packed.shape[0]
        if index.device.type == "cpu" and index.numel() and not torch.compiler.is_compiling():
            low, high = int(index.min()), int(index.max())
            if low < 0 or high >= bounds:
                raise IndexError(f"index out of range: expected 0 … {bounds - 1}, got {low if low < 0 else high}")
        selected = rows(packed.tensors(), index.reshape(-1), width, packed.dtype)
        if selected is not None:
            return fresh(selected.view(*index.shape, width))
    return F.embedding(index, packed())
