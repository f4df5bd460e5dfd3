"""A model's size: parameters, stored bytes, and the shares that are quantized and adapted."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn

from zoo.bounded.notebook import table
from zoo.weights.fused import copied_bytes
from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.quantized_tensor import QuantizedTensor
from zoo.weights.walk import TiedGroup, tied_groups


class WeightInfo(NamedTuple):
    """The current state of one weight.

    Attributes:
        name: The parameter's name; the first one for tied weights.
        shape: The weight's shape.
        dtype: The dtype that its layer sees.
        bits: Stored bits per value, scales and merged copies included.
        adapters: The names of the adapters that change it, active or not.
    """

    name: str
    shape: torch.Size
    dtype: torch.dtype
    bits: float
    adapters: tuple[str, ...]


@dataclass(frozen=True)
class Footprint:
    """A model's size in numbers.

    Attributes:
        parameters: Values of the base; tied weights count once, adapters do not count.
        trainable: Values that would train now.
        bytes: All that is stored for the base: quantized data, scales, full-precision weights and merged copies.
        adapter_bytes: Bytes of the adapters.
        bytes_16bit: Bytes of the base at two bytes per value.
        quantized_share: The share of the parameters stored in fewer than 16 bits.
        adapted_share: The share of the parameters in weights with an adapter.
        error: What quantizing did to the weights: the root of the mean, over all quantized values, of their weights'
            squared relative errors ‖stored − weight‖² / ‖weight‖². None where no weight's error is known.
        errors: The relative error of each weight in fewer than 16 bits by name, the largest first.
    """

    parameters: int
    trainable: int
    bytes: int
    adapter_bytes: int
    bytes_16bit: int
    quantized_share: float
    adapted_share: float
    error: float | None = field(default=None, compare=False)
    errors: dict[str, float] = field(default_factory=dict, compare=False, repr=False)

    def as_dict(self) -> dict[str, int | float]:
        """Return the numbers by name, for JSON."""
        return asdict(self)

    def _repr_html_(self) -> str:
        share = self.bytes / self.bytes_16bit if self.bytes_16bit else 0.0
        error = None if self.error is None else f"{self.error:.2%} of the weights' size"
        return table(
            "zoo.Footprint",
            {
                "parameters": f"{self.parameters:,}",
                "trainable": f"{self.trainable:,}",
                "bytes": f"{self.bytes:,} ({share:.1%} of 16 bit)",
                "bytes of adapters": f"{self.adapter_bytes:,}",
                "quantized": f"{self.quantized_share:.2%} of the parameters",
                "adapted": f"{self.adapted_share:.2%} of the parameters",
                "error of quantizing": error,
            },
        )


def stored_bytes(value: nn.Parameter | ManagedWeight) -> int:
    """Return the bytes that a weight's base takes as it is stored, with a copy that the CPU's fused kernel uses."""
    if isinstance(value, nn.Parameter):
        return value.numel() * value.element_size()
    tensors: list[Any] = [value.base, value.merged]
    for packed in (value.packed, value.merged_packed):
        tensors += [] if packed is None else packed.tensors()
    held = [tensor for tensor in tensors if tensor is not None]
    return sum(tensor.numel() * tensor.element_size() + copied_bytes(tensor) for tensor in held)


def quantized(value: nn.Parameter | ManagedWeight) -> bool:
    """Return whether a weight is stored in fewer than 16 bits."""
    if not isinstance(value, ManagedWeight):
        return False
    packed = value.merged_packed if value.merged_packed is not None else value.packed
    return isinstance(packed, QuantizedTensor) and packed.codec.bits < 16


def weights(module: nn.Module) -> Iterator[WeightInfo]:
    """Yield the state of every weight of the module, tied ones once, in module order."""
    for group in tied_groups(module):
        value = group.value
        adapters = tuple(value.updates) if isinstance(value, ManagedWeight) else ()
        bits = 8 * stored_bytes(value) / max(value.shape.numel(), 1)
        yield WeightInfo(group.name, torch.Size(value.shape), value.dtype, bits, adapters)


def footprint(module: nn.Module) -> Footprint:
    """Return the module's `Footprint`; works on `meta` too."""
    total = stored = small = adapted = adapter_bytes = 0
    groups = tied_groups(module)
    for group in groups:
        value = group.value
        size = value.shape.numel()
        total += size
        stored += stored_bytes(value)
        small += size if quantized(value) else 0
        if isinstance(value, ManagedWeight) and value.updates:
            adapted += size
            adapter_bytes += sum(tensor.numel() * tensor.element_size() for tensor in value.updates.parameters())
    trainable = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    share = max(total, 1)
    errors, error = errors_of(groups)
    return Footprint(total, trainable, stored, adapter_bytes, 2 * total, small / share, adapted / share, error, errors)


def errors_of(groups: list[TiedGroup]) -> tuple[dict[str, float], float | None]:
    """Return the relative error of each quantized weight whose error is known, the largest first, and that of all."""
    found = {}
    for group in groups:
        value = group.value
        packed = (value.merged_packed or value.packed) if isinstance(value, ManagedWeight) else None
        if isinstance(packed, QuantizedTensor) and packed.error is not None:
            found[group.name] = (packed.error, group.value.shape.numel())
    values = sum(size for _, size in found.values())
    mean = math.sqrt(sum(size * error**2 for error, size in found.values()) / values) if values else None
    return {name: error for name, (error, _) in sorted(found.items(), key=lambda one: -one[1][0])}, mean
