"""The forms of other libraries' weights that zoo reads, each recognised by what it is."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from zoo.weights.foreign import bitsandbytes, float8, grouped, hqq, subclass
from zoo.weights.foreign.adopt import Reader
from zoo.weights.foreign.weight import ForeignWeight, computes, own_tensors, records_of
from zoo.weights.managed_weight import ManagedWeight

# Asked in this order; the first that finds any counts.
READERS: tuple[Reader, ...] = (bitsandbytes.read, hqq.read, subclass.read, float8.read, grouped.read)

PACKED_TYPES = (torch.int8, torch.uint8, torch.int16, torch.int32)
PACKED_NAMES = ("weight", "packed", "codes", "qdata", "q_data", "w_q")
SCALE_NAMES = ("scale", "zero", "absmax", "scb", "norm")


def read(layer: nn.Module, dtype: torch.dtype) -> list[ForeignWeight]:
    """Return what is known of a layer's weights that another library quantized.

    Args:
        layer: Any layer.
        dtype: The dtype of the module's other weights, for storage that does not say what it stands for.
    """
    for reader in READERS:
        weights = reader(layer, dtype)
        if weights:
            return [_checked(layer, weight) for weight in weights]
    return []


def _checked(layer: nn.Module, weight: ForeignWeight) -> ForeignWeight:
    """Return a layer's weight, or the reason why it cannot be managed now."""
    if weight.packed is None:
        return weight
    reason = ""
    if any(tensor.is_meta for tensor in weight.packed.tensors()):
        reason = "its values are not here but on 'meta': load or onload them first"
    elif weight.forward is not None and _replaced_forward(layer):
        reason = "another library has replaced the layer's forward pass: wrap the module before that"
    return replace(weight, packed=None, reason=reason) if reason else weight


def _replaced_forward(layer: nn.Module) -> bool:
    """Return whether a forward pass was set on the layer itself by others than accelerate, which keeps the old one.

    diffusers' casting of weights for each use does no harm: zoo dequantizes them at each use anyway.
    """
    if "forward" not in layer.__dict__ or "_old_forward" in layer.__dict__:
        return False
    hooks = getattr(getattr(layer, "_diffusers_hook", None), "hooks", None)
    return hooks is None or set(map(str, hooks)) != {"layerwise_casting"}


def packed_data(layer: nn.Module) -> str | None:
    """Return how a layer of an unknown library seems to store a weight that zoo cannot use; None for other layers.

    That is a parameter of integers (of 64 bits if it is called like a weight) or of floats without arithmetic; where
    the layer has no ordinary weight, also a buffer of integers called like a weight or beside scales; and torch's own
    quantized layers.
    """
    if type(layer).__module__.startswith(("torch.ao.nn.quantized", "torch.nn.quantized")):
        return None if type(layer).__name__ == "LinearPackedParams" else "torch's quantized modules"
    if records_of(layer):
        return None
    for name, parameter in layer._parameters.items():
        if parameter is None or parameter.numel() < 2 or computes(parameter.dtype):
            continue
        if parameter.dtype not in (torch.int64, torch.bool) or _called_weight(name):
            return f"{name} of type {parameter.dtype}"
    tensors = own_tensors(layer)
    if any(_is_weight(tensor) for tensor in tensors.values()) or _has_managed(layer):
        return None
    scaled = any(
        word in name.lower() for name, one in tensors.items() if one.dtype.is_floating_point for word in SCALE_NAMES
    )
    for name, tensor in tensors.items():
        stored = tensor.dtype in PACKED_TYPES and tensor.dim() >= 2 and tensor.numel() > 1
        if stored and (scaled or _called_weight(name)):
            return f"{name} of type {tensor.dtype}"
    return None


def _called_weight(name: str) -> bool:
    return any(word in name.lower() for word in PACKED_NAMES)


def _is_weight(tensor: Tensor) -> bool:
    return computes(tensor.dtype) and tensor.dim() >= 2 and isinstance(tensor, nn.Parameter)


def _has_managed(layer: nn.Module) -> bool:
    return any(isinstance(child, ManagedWeight) for child in layer._modules.values())
