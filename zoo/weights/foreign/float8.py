"""Weights stored in 8-bit floats, alone or with scales beside them: one, one for each row or column, or for each block.

Diffusion models' files have them plain or with `scale_weight`, transformers' layers of DeepSeek's files with
`weight_scale_inv`, by which the values are multiplied in spite of its name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.weights.foreign import layers
from zoo.weights.foreign.probe import best
from zoo.weights.foreign.weight import ForeignWeight, float_dtype, own_tensors, tensor_of
from zoo.weights.quantized_tensor import QuantizedTensor

FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)
# Layers of transformers that multiply by their scales, whose kernels may not run here.
KNOWN = ("FP8Linear", "FbgemmFp8Linear", "CompressedTensorsFP8Linear", "FP8Embedding")
SCALES = ("{}_scale_inv", "{}_scale", "scale_{}", "{}_scales", "scale_inv", "scale", "scales")
ROLES: dict[str, Any] = {"linear": layers.linear, "embedding": layers.embedding, "conv": layers.conv}


@dataclass(frozen=True)
class Float8:
    """8-bit floats, times scales if there are any.

    Tensors: values float8 (the weight's shape), and scales: one, or one for each row, column or block.

    Attributes:
        scheme: The values' dtype, such as "float8_e4m3fn".
        block: Values that share a scale in each dimension; None for scales that broadcast.
        inverse: Whether the values are divided by the scales.
    """

    scheme: str
    block: tuple[int, ...] | None = None
    inverse: bool = False
    bits: int = 8

    def unpack(self, tensors: tuple[Tensor, ...], shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Return the dense weight; see `Codec.unpack`."""
        wide = torch.promote_types(dtype if dtype.itemsize > 1 else torch.float32, torch.float32)
        values = tensors[0].to(wide)
        if len(tensors) > 1:
            scales = self.scales(tensors[1].to(wide), shape)
            values = values / scales if self.inverse else values * scales
        return values.to(dtype).view(shape)

    def scales(self, scales: Tensor, shape: torch.Size) -> Tensor:
        """Return the scales in a shape that broadcasts against the weight's."""
        if scales.numel() == 1:
            return scales.view(())
        if self.block is None:
            return scales
        for dim, (size, block) in enumerate(zip(shape, self.block, strict=True)):
            scales = scales.repeat_interleave(block, dim).narrow(dim, 0, size)
        return scales


def read(layer: nn.Module, dtype: torch.dtype) -> list[ForeignWeight]:
    """Return the weights of a layer that are 8-bit floats."""
    stored = {name: value for name, value in own_tensors(layer).items() if value.dtype in FLOAT8 and value.dim() > 1}
    return [_weight(layer, name, value, float_dtype(layer, dtype)) for name, value in stored.items()]


def _weight(layer: nn.Module, name: str, value: Tensor, dtype: torch.dtype) -> ForeignWeight:
    form = str(value.dtype).removeprefix("torch.")
    found = _scales(layer, name, value)
    role = _role(layer) if name == "weight" else ""
    if found is None:
        packed = QuantizedTensor(Float8(form), value.shape, dtype, {"values": value.detach()})
        # A layer of another class says itself how it casts such a weight.
        plain = ROLES.get(role) if type(layer).__module__.startswith("torch.nn.") else None
        return ForeignWeight(form, packed, ((name, "values"),), plain, role if plain else "", name)
    scale_name, scales = found
    form = f"{form} with {scale_name}"
    tensors = {"values": value.detach(), "scales": _column(scales.detach(), value)}
    holds = ((name, "values"), (scale_name, "scales"))
    readings = [
        (QuantizedTensor(codec, value.shape, dtype, tensors), role)
        for codec in _readings(layer, value, tensors["scales"])
        for role in (("linear", "embedding") if name == "weight" and value.dim() == 2 else ())
    ]
    known = type(layer).__name__ in KNOWN or type(layer) is nn.Linear  # whose own forward pass may not run here
    usual = [number for number, (_, role) in enumerate(readings) if role == _role(layer)]
    number = best(layer, readings)
    if number is None or (type(layer).__name__ in KNOWN and number < 0):
        number = usual[0] if usual and known else -1
    if number >= 0:
        packed, role = readings[number]
        return ForeignWeight(form, packed, holds, ROLES[role], role, name)
    reason = f"a {type(layer).__name__} does not compute a product with the values times the scales"
    return ForeignWeight(form, attribute=name, reason=reason)


def _role(layer: nn.Module) -> str:
    if isinstance(layer, nn.Linear):
        return "linear"
    if isinstance(layer, nn.Embedding):
        return "embedding"
    return "conv" if isinstance(layer, nn.modules.conv._ConvNd) else ""


def _scales(layer: nn.Module, name: str, value: Tensor) -> tuple[str, Tensor] | None:
    """Return the scales of a weight and what the layer calls them; None for a weight without."""
    for pattern in SCALES:
        scales = tensor_of(layer, pattern.format(name))
        if scales is not None and scales.is_floating_point() and scales.numel() <= value.numel():
            return pattern.format(name), scales
    return None


def _column(scales: Tensor, value: Tensor) -> Tensor:
    """Return scales (rows,) as (rows, 1, …); others as they are."""
    if scales.dim() == 1 and scales.numel() > 1 and scales.numel() == value.shape[0]:
        return scales.view(-1, *[1] * (value.dim() - 1))
    return scales.view(1) if scales.dim() == 0 else scales


def _readings(layer: nn.Module, value: Tensor, scales: Tensor) -> Iterator[Float8]:
    """Yield the codecs that the shape of the scales allows, the usual one first."""
    scheme = str(value.dtype).removeprefix("torch.")
    sizes = tuple(scales.shape)
    if scales.numel() == 1 or (
        len(sizes) == value.dim() and all(s in (1, size) for s, size in zip(sizes, value.shape, strict=True))
    ):
        yield Float8(scheme)
        yield Float8(scheme, inverse=True)
        return
    if len(sizes) != value.dim():
        return
    given = getattr(layer, "block_size", None)
    if isinstance(given, list | tuple) and len(given) == value.dim():
        block = tuple(map(int, given))
    else:
        block = tuple(_block(size, count) for size, count in zip(value.shape, sizes, strict=True))
    if all(-(-size // one) == count for size, count, one in zip(value.shape, sizes, block, strict=True)):
        yield Float8(scheme, block)
        yield Float8(scheme, block, inverse=True)


def _block(size: int, count: int) -> int:
    """Return how many of `size` values share one of `count` scales: a power of two where that fits."""
    least = -(-size // count)
    power = 1 << (least - 1).bit_length()
    return power if -(-size // power) == count else least
