"""Quantize one weight, honouring the registry's `keep` and the architecture's `quantize` hook."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from zoo.catalog.entry import Entry
from zoo.errors import QuantizationError, did_you_mean
from zoo.methods.targets import matches, matrix_like, path_of
from zoo.plugin import hooks
from zoo.weights.codecs import StoredFloat
from zoo.weights.layout import layout_of
from zoo.weights.quantized_tensor import QuantizedTensor
from zoo.weights.scheme import Quantization, unknown_scheme
from zoo.weights.walk import TiedGroup

# The name of a weight → how the sum of it and its adapters is stored, None for dense.
Packer = Callable[[str], Callable[[Tensor], QuantizedTensor | None]]


def check_keep(groups: list[TiedGroup], scheme: Quantization | None) -> None:
    """Raise `QuantizationError` if `scheme.keep` names a weight that there is not."""
    paths = sorted({path_of(ref) for group in groups for ref in group.refs})
    for name in () if scheme is None else scheme.keep:
        if not any(matches(path, (name,)) for path in paths):
            endings = sorted({path.split(".")[-1] for path in paths})
            raise QuantizationError(
                f"keep: {name!r} matches no weight.{did_you_mean(name, [*endings, *paths])} Weights end in: "
                f"{', '.join(endings[:12])}{', …' if len(endings) > 12 else ''}"
            )


def quantizer_shape(group: TiedGroup) -> torch.Size:
    """Return the shape in which quantizers get a weight: its own, or (matrices · rows, columns) for a stack.

    So that each row of each matrix can have a scale, and not only each matrix.
    """
    shape = torch.Size(group.value.shape)
    stacked = layout_of([(ref.layer, ref.attribute) for ref in group.refs], shape).stacked
    return torch.Size((shape[0] * shape[1], shape[2])) if stacked else shape


def pack_weight(
    entry: Entry, group: TiedGroup, weight: Tensor, scheme: Quantization, dtype: torch.dtype
) -> QuantizedTensor | None:
    """Return a weight quantized by `scheme`; None if it stays a plain parameter in `dtype`.

    These stay: weights of one dimension, or of several of which only one is longer than 1 (gains of norms look so),
    what the entry's `keep` and the scheme's name, what the architecture's own hook returns as it is, and integers.

    Raises:
        QuantizationError: no plugin has the scheme, or it cannot quantize this weight.
    """
    value, refs = group.value, group.refs
    if not weight.is_floating_point() or not matrix_like(value.shape):
        return None
    if scheme.bits < 16 and sum(size > 1 for size in value.shape) < 2:
        return None
    keep = (*entry.keep, *scheme.keep)
    if keep and any(matches(path_of(ref), keep) for ref in refs):
        return None
    name = refs[0].name
    weight = weight.reshape(quantizer_shape(group))
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
