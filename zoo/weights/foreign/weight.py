"""What is known of one weight that another library quantized."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.quantized_tensor import QuantizedTensor

RECORD = "_zoo_foreign"  # under which a layer keeps its `ForeignWeight`s by attribute while zoo manages them


@dataclass(frozen=True)
class ForeignWeight:
    """A weight as another library stores it in a layer, or the reason why zoo cannot use it.

    Attributes:
        form: What the storage is, for people: "bitsandbytes nf4".
        packed: The stored tensors themselves, with the codec that dequantizes them; None if zoo cannot use them.
        holds: The layer's parameters, buffers or attributes with these tensors → their names in `packed`.
        forward: The layer's forward pass in terms of `layer.weight`, called as `forward(layer, *args)`; None if the
            layer's own one reads `layer.weight` as an ordinary tensor.
        acts_as: "linear", "embedding" or "conv", where the layer's class does not say it.
        attribute: What the weight is called.
        take: Removes the stored tensors from the layer, for tensors that are not in `holds`.
        give_back: Puts them back in the library's own form, from `packed`; without it, each as `holds` says.
        reason: Why `packed` is None, and what to do.
    """

    form: str
    packed: QuantizedTensor | None = None
    holds: tuple[tuple[str, str], ...] = ()
    forward: Callable[..., Any] | None = None
    acts_as: str = ""
    attribute: str = "weight"
    take: Callable[[nn.Module], None] | None = None
    give_back: Callable[[nn.Module, QuantizedTensor], None] | None = None
    reason: str = ""


def records_of(layer: nn.Module) -> dict[str, ForeignWeight]:
    """Return what a layer's weights were before zoo managed them, by attribute; ordinary ones are not among them."""
    return layer.__dict__.get(RECORD, {})


def acts_as(layer: nn.Module) -> str:
    """Return "linear", "embedding" or "conv" for a layer of another library whose class does not say so, else ""."""
    record = records_of(layer).get("weight")
    return record.acts_as if record is not None else ""


def tensor_of(layer: nn.Module, name: str) -> Tensor | None:
    """Return a layer's own parameter, buffer or attribute of that name, if it is a tensor."""
    for place in (layer._parameters, layer._buffers, layer.__dict__):
        value = place.get(name)
        if isinstance(value, Tensor):
            return value
    return None


def own_tensors(layer: nn.Module) -> dict[str, Tensor]:
    """Return a layer's own parameters, buffers and other attributes that are tensors, by name."""
    places = (layer.__dict__, layer._buffers, layer._parameters)
    return {name: value for place in places for name, value in place.items() if isinstance(value, Tensor)}


def computes(dtype: torch.dtype) -> bool:
    """Return whether torch has arithmetic for numbers of this type that are no integers."""
    return dtype.is_complex or (dtype.is_floating_point and dtype.itemsize > 1)


def float_dtype(layer: nn.Module, default: torch.dtype) -> torch.dtype:
    """Return the dtype of a layer's bias where it has one that can be computed with, else `default`."""
    bias = tensor_of(layer, "bias")
    usable = bias is not None and not bias.dtype.is_complex and computes(bias.dtype)
    return bias.dtype if usable else default  # type: ignore[union-attr]


def only_ordinary(module: nn.Module) -> bool:
    """Return whether all layers have nothing but plain tensors to compute with: there is no other form to look for."""
    return all(map(_is_ordinary, module.modules()))


def _is_ordinary(layer: nn.Module) -> bool:
    if isinstance(layer, ManagedWeight | QuantizedTensor) or RECORD in layer.__dict__:
        return True
    parameters = [one for one in layer._parameters.values() if one is not None]
    others = [one for place in (layer._buffers, layer.__dict__) for one in place.values() if isinstance(one, Tensor)]
    plain = all(type(one) is nn.Parameter and computes(one.dtype) for one in parameters)
    plain = plain and all(computes(one.dtype) or one.dtype in (torch.int64, torch.bool) for one in others)
    return plain and not any(name in type(layer).__module__ for name in ("quant", "bitsandbytes", "torchao", "awq"))
