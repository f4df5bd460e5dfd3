"""Quantize one weight as planned, honouring the architecture's hook `quantize`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.catalog.entry import Entry
from zoo.errors import QuantizationError
from zoo.methods.targets import matches
from zoo.plugin import hooks
from zoo.weights.codecs import StoredFloat
from zoo.weights.error import assumed_error, measure_error
from zoo.weights.layout import layout_of
from zoo.weights.lazy_weight import LazyWeight
from zoo.weights.mixed import PEAKED, SCHEMES
from zoo.weights.quantized_tensor import QuantizedTensor
from zoo.weights.readings import read_for
from zoo.weights.scheme import Quantization, unknown_scheme
from zoo.weights.walk import TiedGroup

# The name of a weight → how the sum of it and its adapters is stored, None for dense.
Packer = Callable[[str], Callable[[Tensor], QuantizedTensor | None]]

# The quantization of each weight by its name; a weight that is not in it stays a plain parameter.
Plan = dict[str, Quantization]


def quantizer_shape(group: TiedGroup) -> torch.Size:
    """Return the shape in which quantizers get a weight: its own, or (matrices · rows, columns) for a stack.

    So that each row of each matrix can have a scale, and not only each matrix.
    """
    shape = torch.Size(group.value.shape)
    stacked = layout_of([(ref.layer, ref.attribute) for ref in group.refs], shape).stacked
    return torch.Size((shape[0] * shape[1], shape[2])) if stacked else shape


def pack_weight(
    entry: Entry, group: TiedGroup, weight: Tensor, chosen: Plan, dtype: torch.dtype
) -> QuantizedTensor | None:
    """Return a weight quantized as the plan says; None if it stays a plain parameter in `dtype`.

    What the architecture's own hook returns as it is stays too, and so do integers. A weight that 4 bit
    cannot hold (`zoo.weights.mixed.PEAKED`) is stored in 8 bit, unless its scheme is not `mixed`.

    Raises:
        QuantizationError: no plugin has the scheme, or it cannot quantize this weight.
    """
    value, scheme = group.value, chosen.get(group.name)
    if scheme is None or not weight.is_floating_point():
        return None
    weight = weight.reshape(quantizer_shape(group))

    def finer(stored: QuantizedTensor) -> None:
        eight = _stored(entry, group.name, weight, Quantization(8)) if _is_peaked(stored, scheme) else None
        if eight is not None and (eight.error or 0.0) < (stored.error or 0.0):
            stored.become(eight)

    stored = _stored(entry, group.name, weight, scheme, finer if scheme.mixed and scheme.scheme in SCHEMES else None)
    if stored is None or (isinstance(stored.codec, StoredFloat) and stored.tensors()[0].dtype == dtype):
        return None
    stored.shape = torch.Size(value.shape)
    stored.dtype = dtype
    return stored


@dataclass(frozen=True)
class Packing:
    """Quantizes one weight again and again, by the hook `quantize`; see `packing`."""

    entry: Entry
    name: str
    seen: tuple[int, ...]
    scheme: Quantization

    def __call__(self, weight: Tensor) -> QuantizedTensor | None:
        """Return the weight quantized, in its own shape and dtype; None if the architecture keeps it as it is."""
        with torch.no_grad():
            stored = _stored(self.entry, self.name, weight.detach().reshape(self.seen), self.scheme)
        if stored is not None:
            stored.shape, stored.dtype = weight.shape, weight.dtype
        return stored


def packing(entry: Entry, name: str, weight: LazyWeight, scheme: Quantization) -> Packing | None:
    """Return what quantizes a weight whenever it is called; None for one that `plan` would leave plain.

    Args:
        entry: The model's entry.
        name: The parameter's name.
        weight: The weight, for its shape and layout.
        scheme: How to quantize it.
    """
    shape = torch.Size(weight.shape)
    if matches(name.removesuffix(".weight"), entry.keep) or matches(name, entry.keep):
        return None
    if scheme.bits < 16 and sum(size > 1 for size in shape) < 2:
        return None
    seen = (shape[0] * shape[1], shape[2]) if weight.layout.stacked else tuple(shape)
    _stored(entry, name, torch.linspace(-1, 1, 128).view(2, 64), scheme)  # an unknown scheme is an error at once
    return Packing(entry, name, seen, scheme)


def _is_peaked(stored: QuantizedTensor, scheme: Quantization) -> bool:
    return stored.error is not None and stored.error > PEAKED * math.sqrt(assumed_error(scheme))


def _stored(
    entry: Entry,
    name: str,
    weight: Tensor,
    scheme: Quantization,
    then: Callable[[QuantizedTensor], None] | None = None,
) -> QuantizedTensor | None:
    """Return what the hook `quantize` makes of a weight; None if it is to stay plain.

    Its error is measured, and `then` called with it, at once or in time (`zoo.weights.readings`).
    """
    try:
        with read_for(name):
            stored = hooks.quantize(entry, name, weight, scheme)
    except QuantizationError as error:
        raise QuantizationError(f"{name}: {error}") from error
    if stored is None:
        raise unknown_scheme(scheme.scheme)
    if not isinstance(stored, QuantizedTensor):
        return None
    if tuple(stored.shape) != tuple(weight.shape):
        expected = tuple(weight.shape)
        raise QuantizationError(f"{name}: its quantizer returned shape {tuple(stored.shape)}, expected {expected}")
    if stored.error is None and stored.codec.bits < 16:
        measure_error(stored, weight, None if then is None else lambda: then(stored))
    return stored
