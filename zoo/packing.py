"""What a weight is stored as under a scheme: the entry's word, its architecture's, a quantizer's."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo import host
from zoo.adapters.targets import Group, matches, path_of
from zoo.errors import QuantizationError
from zoo.registry import Entry
from zoo.weights.codecs import StoredFloat
from zoo.weights.manage import matrix_like
from zoo.weights.packed import Packed
from zoo.weights.scheme import Quantization, unknown_scheme


def pack_weight(entry: Entry, group: Group, weight: Tensor, scheme: Quantization, dtype: torch.dtype) -> Packed | None:
    """What a weight's store holds under ``scheme``; None where it stays a plain parameter in ``dtype``.

    Kept are: weights of one dimension, or of several of which only one is longer than 1 (gains of norms look so),
    what the entry's ``keep`` names, what the architecture's own hook returns as it is, and integers.
    """
    held, sites = group
    if not weight.is_floating_point() or not matrix_like(held.shape):
        return None
    if scheme.bits < 16 and sum(size > 1 for size in held.shape) < 2:
        return None
    if entry.keep and any(matches(path_of(site), entry.keep) for site in sites):
        return None
    name = sites[0].name
    try:
        stored = host.quantize(entry, name, weight, scheme)
    except QuantizationError as error:
        raise QuantizationError(f"{name}: {error}") from error
    if stored is None:
        raise unknown_scheme(scheme.scheme)
    if not isinstance(stored, Packed):
        return None
    if tuple(stored.shape) != tuple(held.shape):
        expected = tuple(held.shape)
        raise QuantizationError(f"{name}: its quantizer returned shape {tuple(stored.shape)}, expected {expected}")
    if isinstance(stored.codec, StoredFloat) and stored.tensors()[0].dtype == dtype:
        return None
    stored.dtype = dtype
    return stored
