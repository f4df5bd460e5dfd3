"""Plan how each weight of a model is quantized, and quantize one, honouring the architecture's hook `quantize`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor

from zoo.catalog.entry import Entry
from zoo.errors import QuantizationError, did_you_mean
from zoo.methods.targets import matches, matrix_like, path_of
from zoo.plugin import hooks
from zoo.weights.codecs import StoredFloat
from zoo.weights.error import relative_error
from zoo.weights.layout import layout_of
from zoo.weights.mixed import SCHEMES, in_eight_bit
from zoo.weights.quantized_tensor import QuantizedTensor
from zoo.weights.scheme import Quantization, unknown_scheme
from zoo.weights.walk import TiedGroup

# The name of a weight → how the sum of it and its adapters is stored, None for dense.
Packer = Callable[[str], Callable[[Tensor], QuantizedTensor | None]]

# The quantization of each weight by its name; a weight that is not in it stays a plain parameter.
Plan = dict[str, Quantization]


def plan(entry: Entry, groups: list[TiedGroup], scheme: Quantization | None) -> Plan:
    """Return how each weight is to be quantized: by the scheme, by its overrides, or in 8 bit by `zoo.weights.mixed`.

    These stay plain: weights of one dimension, or of several of which only one is longer than 1 (gains of norms look
    so), and what the entry's `keep` and the scheme's name.

    Raises:
        QuantizationError: the scheme names a weight that there is not.
    """
    if scheme is None:
        return {}
    _check_names(groups, "keep", scheme.keep)
    _check_names(groups, "bits", [name for name, _ in scheme.overrides])
    keep, common = (*entry.keep, *scheme.keep), replace(scheme, keep=(), overrides=())
    made: Plan = {}
    sizes: dict[str, int] = {}
    others = 0
    for group in groups:
        shape = torch.Size(group.value.shape)
        if not matrix_like(shape) or any(matches(path_of(ref), keep) for ref in group.refs):
            continue
        own = _override(group, scheme)
        if (own or common).bits < 16 and sum(size > 1 for size in shape) < 2:
            continue
        made[group.name] = own or common
        if own is None:
            sizes[group.name] = shape.numel()
        else:
            others += shape.numel()
    if scheme.mixed and scheme.scheme in SCHEMES:
        made |= dict.fromkeys(in_eight_bit(sizes, others), Quantization(8))
    return made


def _override(group: TiedGroup, scheme: Quantization) -> Quantization | None:
    """Return the quantization that the scheme gives to this weight in particular."""
    paths = [path_of(ref) for ref in group.refs]
    return next((own for name, own in scheme.overrides if any(matches(path, (name,)) for path in paths)), None)


def _check_names(groups: list[TiedGroup], argument: str, names: Iterable[str]) -> None:
    """Raise `QuantizationError` if one of the names matches no weight."""
    paths = sorted({path_of(ref) for group in groups for ref in group.refs})
    for name in names:
        if not any(matches(path, (name,)) for path in paths):
            endings = sorted({path.split(".")[-1] for path in paths})
            raise QuantizationError(
                f"{argument}: {name!r} matches no weight.{did_you_mean(name, [*endings, *paths])} Weights end in: "
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
    entry: Entry, group: TiedGroup, weight: Tensor, chosen: Plan, dtype: torch.dtype
) -> QuantizedTensor | None:
    """Return a weight quantized as the plan says; None if it stays a plain parameter in `dtype`.

    What the architecture's own hook returns as it is stays too, and so do integers.

    Raises:
        QuantizationError: no plugin has the scheme, or it cannot quantize this weight.
    """
    value, name, scheme = group.value, group.name, chosen.get(group.name)
    if scheme is None or not weight.is_floating_point():
        return None
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
    stored.error = relative_error(stored, weight)
    stored.shape = torch.Size(value.shape)
    if isinstance(stored.codec, StoredFloat) and stored.tensors()[0].dtype == dtype:
        return None
    stored.dtype = dtype
    return stored
