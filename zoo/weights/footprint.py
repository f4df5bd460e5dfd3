"""How much a model holds: parameters, stored bytes, and how much of it is quantized and adapted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.quantized_tensor import QuantizedTensor
from zoo.weights.walk import tied_groups


class WeightInfo(NamedTuple):
    """What one weight is now."""

    name: str
    shape: torch.Size
    dtype: torch.dtype  # what its layer sees
    bits: float  # stored bits per value, scales and merged copies included
    adapters: tuple[str, ...]


@dataclass(frozen=True)
class Footprint:
    """A model in numbers.

    parameters: values of the base, tied ones once, adapters not counted. trainable: values that would train now.
    bytes: all that is stored for the base: packed data, scales, full-precision weights and merged copies.
    adapter_bytes: the adapters' own. bytes_16bit: the base at two bytes a value. quantized_share: share of the
    parameters stored in fewer than 16 bits. adapted_share: share of the parameters in weights with an adapter.
    """

    parameters: int
    trainable: int
    bytes: int
    adapter_bytes: int
    bytes_16bit: int
    quantized_share: float
    adapted_share: float

    def as_dict(self) -> dict[str, int | float]:
        """The figures by name, for JSON."""
        return asdict(self)


def stored_bytes(held: nn.Parameter | ManagedWeight) -> int:
    """Bytes that a weight's base takes as it is stored."""
    if isinstance(held, nn.Parameter):
        return held.numel() * held.element_size()
    own: list[Any] = [held.base, held.merged]
    for packed in (held.packed, held.merged_packed):
        own += [] if packed is None else packed.tensors()
    return sum(tensor.numel() * tensor.element_size() for tensor in own if tensor is not None)


def quantized(held: nn.Parameter | ManagedWeight) -> bool:
    """Whether a weight is stored in fewer than 16 bits."""
    if not isinstance(held, ManagedWeight):
        return False
    packed = held.merged_packed if held.merged_packed is not None else held.packed
    return isinstance(packed, QuantizedTensor) and packed.codec.bits < 16


def weights(module: nn.Module) -> Iterator[WeightInfo]:
    """Every weight of the module, tied ones once, in module order."""
    for group in tied_groups(module):
        held = group.value
        adapters = tuple(held.updates) if isinstance(held, ManagedWeight) else ()
        bits = 8 * stored_bytes(held) / max(held.shape.numel(), 1)
        yield WeightInfo(group.name, torch.Size(held.shape), held.dtype, bits, adapters)


def footprint(module: nn.Module) -> Footprint:
    """The module's `Footprint`; on `meta` too."""
    total = stored = small = adapted = adapters = 0
    for group in tied_groups(module):
        held = group.value
        size = held.shape.numel()
        total += size
        stored += stored_bytes(held)
        small += size if quantized(held) else 0
        if isinstance(held, ManagedWeight) and held.updates:
            adapted += size
            adapters += sum(tensor.numel() * tensor.element_size() for tensor in held.updates.parameters())
    trainable = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    share = max(total, 1)
    return Footprint(total, trainable, stored, adapters, 2 * total, small / share, adapted / share)
