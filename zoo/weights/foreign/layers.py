"""Forward passes of other libraries' layers in terms of `layer.weight`, in the dtype of the activations."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.weights.choice import in_force
from zoo.weights.lazy_weight import LazyWeight
from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.ops import linear as linear_op


def managed_of(layer: nn.Module) -> ManagedWeight | None:
    """Return the managed weight of a layer; None if its weight is a plain parameter again (`model.unload`)."""
    weight = layer.__dict__.get("weight")
    return in_force(weight._zoo_store) if isinstance(weight, LazyWeight) else None


def bias_of(layer: nn.Module, dtype: torch.dtype) -> Tensor | None:
    """Return the layer's bias in `dtype`, or None."""
    bias = getattr(layer, "bias", None)
    return bias.to(dtype) if isinstance(bias, Tensor | LazyWeight) else None


def linear(layer: nn.Module, x: Tensor) -> Tensor:
    """Return x @ W.T + bias: (..., in) → (..., out)."""
    bias = bias_of(layer, x.dtype)
    managed = managed_of(layer)
    if managed is None:
        weight = layer.weight
        assert isinstance(weight, Tensor)
        return F.linear(x, weight.to(x.dtype), bias)
    y = linear_op.linear(managed, x, bias, follow=True)
    return F.linear(x, managed.dense(x.dtype), bias) if y is None else y


def embedding(layer: nn.Module, index: Tensor) -> Tensor:
    """Return the rows of W: (...) → (..., features)."""
    padding = getattr(layer, "padding_idx", None)
    y = F.embedding(index, layer.weight, padding)  # type: ignore[arg-type]
    dtype = getattr(layer, "dtype", None)  # what bitsandbytes' embeddings return
    return y.to(dtype) if isinstance(dtype, torch.dtype) else y


def conv(layer: nn.Module, x: Tensor) -> Tensor:
    """Return a convolution: (n, in, *spatial) → (n, out, *spatial)."""
    weight = layer.weight
    managed = managed_of(layer)
    if managed is not None and managed.dtype != x.dtype:
        weight = managed.dense(x.dtype)
    return layer._conv_forward(x, weight, bias_of(layer, x.dtype))  # type: ignore[operator]


def add_adapters(managed: ManagedWeight, y: Tensor, x: Tensor) -> Tensor:
    """Return the base's output y (..., out) with the effect of the active adapters on x (..., in)."""
    updates = managed.active_updates()
    if not updates:
        return y
    low_rank = managed.factors()
    if low_rank is None:
        change = managed.dense(torch.promote_types(x.dtype, torch.float32))
        change = change - managed.base_tensor(change.dtype)
        return y + F.linear(x, change.to(x.dtype))
    for update, (left, right, scale) in zip(updates, low_rank, strict=True):
        dropped = F.dropout(x, update.dropout, managed.training) if update.dropout else x
        y = y + F.linear(F.linear(dropped, right.to(x.dtype)), left.to(x.dtype)) * scale
    return y


def has_native_base(managed: ManagedWeight) -> bool:
    """Return whether the base is still what the other library stored: nothing merged, nothing replacing it."""
    return managed.dense_base() is None and managed.merged_packed is None and managed.effective_base() is None
