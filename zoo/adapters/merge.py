"""Merge adapters into the weights, exactly or quantized again, and report what that does to their effect."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from zoo.adapters.adapter_set import AdapterSet
from zoo.errors import AdapterError, QuantizationError
from zoo.plugin.plan import plan
from zoo.plugin.quantize import Packer, pack_weight
from zoo.weights.managed_weight import WeightMerge
from zoo.weights.quantized_tensor import QuantizedTensor
from zoo.weights.scheme import Quantization, as_quantization
from zoo.weights.walk import tied_groups

log = logging.getLogger(__name__)


class MergeStats(NamedTuple):
    """What a merge did to one weight W.

    Attributes:
        name: The weight's name.
        bits: Stored bits per value, scales not counted.
        change: ‖ΔW‖ / ‖W‖.
        error: ‖stored − (W + ΔW)‖ / ‖ΔW‖; at 1 the adapter's whole effect is lost in noise of its own size.
    """

    name: str
    bits: int
    change: float
    error: float


@dataclass(frozen=True)
class MergeReport:
    """What `model.merge` did, and how far the stored weights are from the exact ones, measured in float32 or better.

    Attributes:
        names: The merged adapters with their weights.
        weights: The weights that changed.
        error: Over all of those together, √Σ‖stored − (W + ΔW)‖² / √Σ‖ΔW‖²; 0 if none changed.
    """

    names: Mapping[str, float]
    weights: tuple[MergeStats, ...]
    error: float

    def __str__(self) -> str:
        names = ", ".join(name if weight == 1.0 else f"{weight:g} · {name}" for name, weight in self.names.items())
        if not self.weights:
            return f"merged {names}: no weight has changed"
        bits = ", ".join(f"{width} bit" for width in sorted({one.bits for one in self.weights}))
        text = (
            f"merged {names} into {len(self.weights)} weights, {bits}: error {self.error:.2g} of the adapters' effect"
        )
        worst = max(self.weights, key=lambda one: one.error)
        return text + (f", at most {worst.error:.2g} in {worst.name}" if worst.error > 0 else "")


def merge(adapters: AdapterSet, names: Sequence[str], bits: int | Quantization | None = None) -> MergeReport:
    """Merge adapters into the weights; see `zoo.Model.merge`."""
    loaded = adapters.scheme
    scheme = None if bits is None else as_quantization(bits, () if loaded is None else loaded.keep)
    if scheme is not None and scheme.average is not None:
        raise QuantizationError(f"bits={scheme.argument!r}: an average is of a whole model, expected a width such as 4")
    if adapters.device.type == "meta":
        raise AdapterError("an adapter on 'meta' has no values to merge: load the model on a device")
    weights, merges = adapters.merge(names, None if scheme is None else _packer(adapters, scheme))
    report = _report(weights, merges)
    if scheme is not None:  # requantizing loses precision; say how much without being asked
        log.warning("%s", report)
    return report


def _packer(adapters: AdapterSet, scheme: Quantization) -> Packer:
    groups = {group.name: group for group in tied_groups(adapters.module)}
    chosen = plan(adapters.entry, list(groups.values()), scheme)

    def pack(name: str) -> Callable[[Tensor], QuantizedTensor | None]:
        group = groups[name]
        return lambda weight: pack_weight(adapters.entry, group, weight, chosen, group.value.dtype)

    return pack


def _report(names: Mapping[str, float], merges: Mapping[str, WeightMerge]) -> MergeReport:
    weights = []
    for name, one in merges.items():
        if one.value is not None:
            packed = isinstance(one.value, QuantizedTensor)
            width = one.value.codec.bits if packed else 8 * one.value.dtype.itemsize  # type: ignore[union-attr]
            weights.append(MergeStats(name, width, _ratio(one.effect, one.base), _ratio(one.error, one.effect)))
    effect = math.sqrt(sum(one.effect**2 for one in merges.values()))
    error = math.sqrt(sum(one.error**2 for one in merges.values()))
    return MergeReport(dict(names), tuple(weights), _ratio(error, effect))


def _ratio(part: float, whole: float) -> float:
    if whole == 0.0:
        return 0.0 if part == 0.0 else math.inf
    return part / whole
