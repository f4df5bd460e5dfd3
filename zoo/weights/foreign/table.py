"""The forms of other libraries' weights that zoo reads, each recognised by what it is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.weights.foreign import bitsandbytes, float8, grouped, hqq, subclass
from zoo.weights.foreign.adopt import Reader
from zoo.weights.foreign.weight import ForeignWeight, own_tensors, records_of

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
            return weights
    return []


def packed_data(layer: nn.Module) -> str | None:
    """Return how a layer of an unknown library seems to store a weight that zoo cannot use; None for other layers.

    That is a parameter of integers, or a buffer of integers called like a weight or beside scales, where the layer has
    no ordinary weight of its own; and torch's own quantized layers.
    """
    if type(layer).__module__.startswith(("torch.ao.nn.quantized", "torch.nn.quantized")):
        return None if type(layer).__name__ == "LinearPackedParams" else "torch's quantized modules"
    if records_of(layer):
        return None
    for name, parameter in layer._parameters.items():
        if parameter is not None and not parameter.dtype.is_floating_point and parameter.numel() > 1:
            return f"{name} of type {parameter.dtype}"
    tensors = own_tensors(layer)
    if any(_is_weight(tensor) for tensor in tensors.values()) or _has_managed(layer):
        return None
    scaled = any(
        word in name.lower() for name, one in tensors.items() if one.dtype.is_floating_point for word in SCALE_NAMES
    )
    for name, tensor in tensors.items():
        if tensor.dtype in PACKED_TYPES and tensor.dim() >= 2 and tensor.numel() > 1:
            called = any(word in name.lower() for word in PACKED_NAMES)
            if called or scaled:
                return f"{name} of type {tensor.dtype}"
    return None


def _is_weight(tensor: Tensor) -> bool:
    return (
        tensor.dtype.is_floating_point
        and tensor.dtype.itemsize > 1
        and tensor.dim() >= 2
        and isinstance(tensor, nn.Parameter)
    )


def _has_managed(layer: nn.Module) -> bool:
    return any(name.endswith("_store") for name in layer._modules)
