"""Quantize one weight, honouring the registry's `keep` and the architecture's `quantize` hook."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from zoo.catalog.entry import Entry
from zoo.errors import QuantizationError
from zoo.methods.targets import matches, matrix_like, path_of
from zoo.plugin import hooks
from zoo.weights.codecs import StoredFloat
from zoo.weights.layout import layout_of
from zoo.weights.quantized_tensor import QuantizedTensor
from zoo.weights.scheme import Quantization, unknown_scheme
from zoo.weights.walk import TiedGroup

# The name of a weight → how the sum of it and its adapters is stored, None for dense.
Packer = Callable[[str], Callable[[Tensor], QuantizedTensor | None]]


def pack_weight(
    entry: Entry, group: TiedGroup, weight: Tensor, scheme: Quantization, dtype: torch.dtype
) -> QuantizedTensor | None:
    """Return a weight quantized by `scheme`; None if it stays a plain parameter in `dtype`.

    These stay: weights of one dimension, or of several of which only one is longer than 1 (gains of norms look so),
    what the entry's `keep` names, what the architecture's own hook returns as it is, and integers.

    Raises:
        QuantizationError: no plugin has the scheme, or it cannot quantize this weight.
    """
    value, refs = group.value, group.refs
    if not weight.is_floating_point() or not matrix_like(value.shape):
        return None
    if scheme.bits < 16 and sum(size > 1 for size in value.shape) < 2:
        return None
    if entry.keep and any(matches(path_of(ref), entry.keep) for ref in refs):
        return None
    name = refs[0].name
    if layout_of([(ref.layer, ref.attribute) for ref in refs], value.shape).stacked:
        weight = weight.flatten(0, 1)  # (matrices · rows, columns): a scale of a row is not that of a whole matrix
    try:
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
    stored.shape = torch.Size(value.shape)
    if isinstance(stored.codec, StoredFloat) and stored.tensors()[0].dtype == dtype:
        return None
    stored.dtype = dtype
    return stored
