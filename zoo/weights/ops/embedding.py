"""Looking rows of a managed weight up: only the rows that are asked for are unpacked."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.errors import WeightError
from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.ops.base import join, transforms_active
from zoo.weights.update import without_autocast

RENORM = (
    "an embedding with max_norm rewrites its weight at every use, which a quantized or adapted weight cannot "
    "follow: set max_norm=None, or leave the weight out with targets= and keep="
)


def refuse_renorm(*args: Any, max_norm: float | None = None, **kwargs: Any) -> None:
    """`embedding_bag` goes by the dense weight; `WeightError` for `max_norm`, as with `embedding`."""
    if max_norm is not None or (len(args) > 3 and args[3] is not None):
        raise WeightError(RENORM)


def embedding(
    store: ManagedWeight,
    index: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """`torch.nn.functional.embedding` over a managed weight. index: (...) → (..., features).

    Raises `WeightError` for `max_norm`, which would rewrite the weight in place.
    """
    if max_norm is not None:
        raise WeightError(RENORM)
    updates = store.active_updates()
    found = store.factors()
    dense = store.effective_base()
    general = len(store.shape) != 2 or transforms_active() or scale_grad_by_freq
    general = general or (store.training and any(update.dropout for update in updates))
    if found is None or general:
        # scale_grad_by_freq divides the weight's gradient by row, which only the dense weight's gradient can show.
        return F.embedding(index, store.dense(), padding_idx, None, norm_type, scale_grad_by_freq, sparse)
    if dense is not None:
        y = F.embedding(index, dense, padding_idx, None, norm_type, scale_grad_by_freq, sparse)
    else:
        y = _rows(store, index)
    factors = join(found, store.dtype)
    if factors is None:
        return y
    hidden = F.embedding(index, factors.left)  # (..., rank)
    rows = y.reshape(-1, y.shape[-1])
    with without_autocast(y):
        flat = torch.addmm(rows, hidden.reshape(-1, hidden.shape[-1]), factors.right, alpha=factors.scale)
    if padding_idx is not None:
        # The padding row takes no gradient, neither in its own factor nor in the one that all rows share.
        padding_idx %= store.shape[0]  # -1 is the last row
        flat = torch.where((index == padding_idx).reshape(-1, 1), flat.detach(), flat)
    return flat.view(y.shape)


def _rows(store: ManagedWeight, index: Tensor) -> Tensor:
    """The packed base's rows at `index`: (...) → (..., features)."""
    packed = store.quantized_base()
    width = packed.shape[1]
    rows = getattr(packed.codec, "rows", None)
    if rows is not None and index.numel() < packed.shape[0]:
        bounds = packed.shape[0]
        if index.device.type == "cpu" and index.numel() and not torch.compiler.is_compiling():
            low, high = int(index.min()), int(index.max())
            if low < 0 or high >= bounds:
                raise IndexError(f"index out of range: expected 0 … {bounds - 1}, got {low if low < 0 else high}")
        found = rows(packed.tensors(), index.reshape(-1), width, packed.dtype)
        if found is not None:
            return found.view(*index.shape, width)
    return F.embedding(index, packed())
