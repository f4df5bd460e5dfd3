"""Plan how each weight of a model is quantized: by its scheme, by name, within an average, or by its size."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import nn

from zoo.catalog.entry import Entry
from zoo.errors import QuantizationError, did_you_mean
from zoo.methods.targets import matches, matrix_like, path_of
from zoo.plugin.quantize import Plan, pack_weight
from zoo.weights.error import assumed_error
from zoo.weights.footprint import stored_bytes
from zoo.weights.layout import layout_of
from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.mixed import SCHEMES, in_eight_bit
from zoo.weights.scheme import BLOCK_SIZES, Quantization
from zoo.weights.spend import Form, least, spend
from zoo.weights.walk import TiedGroup

# By a weight's name and a label of `offered` what storing it so costs; see `zoo.plugin.sensitivity`.
Costs = Mapping[str, Mapping[str, float]]


def plan(
    entry: Entry,
    groups: list[TiedGroup],
    scheme: Quantization | None,
    dtype: torch.dtype | None = None,
    costs: Costs | None = None,
) -> Plan:
    """Return how each weight is to be quantized.

    By the scheme's overrides, then within its average, see `zoo.weights.spend`, or, without one, by the scheme itself
    and in 8 bit by `zoo.weights.mixed`. These stay plain: weights of one dimension, or of several of which only one is
    longer than 1 (gains of norms look so), and what the entry's `keep` and the scheme's name.

    Args:
        entry: The model's entry.
        groups: All parameters of the module; on `meta` too.
        scheme: How to store them; None leaves them plain.
        dtype: The type of the plain ones, whose bytes an average counts; None where it is the one that each has.
        costs: What each of `offered` costs each weight that an average is for, measured by `zoo.plugin.sensitivity`.
            None assumes the same for weights of all sizes, and leaves "4 wide" out.

    Raises:
        QuantizationError: the scheme names a weight that there is not, or its average is below the smallest forms.
    """
    if scheme is None:
        return {}
    made = _by_scheme(entry, groups, scheme)
    if scheme.average is not None:
        return made | _within(scheme.average, entry, groups, scheme, made, dtype, costs)
    if scheme.mixed and scheme.scheme in SCHEMES:
        sizes = {group.name: group.value.shape.numel() for group in groups if group.name in made}
        others = {group.name for group in groups if group.name in sizes and _override(group, scheme) is not None}
        rest = sum(sizes.pop(name) for name in others)
        made |= dict.fromkeys(in_eight_bit(sizes, rest), Quantization(8))
    return made


def _by_scheme(entry: Entry, groups: list[TiedGroup], scheme: Quantization) -> Plan:
    """Return the scheme or its override for each weight that is quantized at all."""
    _check_names(groups, "keep", scheme.keep)
    _check_names(groups, "bits", [name for name, _ in scheme.overrides])
    keep, common = (*entry.keep, *scheme.keep), replace(scheme, keep=(), overrides=(), average=None)
    made: Plan = {}
    for group in groups:
        shape = torch.Size(group.value.shape)
        if not matrix_like(shape) or _is_named(group, keep):
            continue
        own = _override(group, scheme)
        chosen = common if own is None else replace(own, mixed=False)
        if chosen.bits >= 16 or sum(size > 1 for size in shape) > 1:
            made[group.name] = chosen
    for name, own in scheme.overrides:
        if own.bits < 16 and not any(group.name in made for group in groups if _is_named(group, (name,))):
            raise QuantizationError(f"bits: {name!r} names only weights that stay in full precision, such as norms")
    return made


def offered(scheme: Quantization, dtype: torch.dtype | None = None) -> dict[str, Quantization]:
    """Return what a weight may be stored in within an average, by a label: "4", "4 wide", "8" and "16".

    "4" is the scheme itself. "4 wide" has a quarter of its scales: what .1 bit a value saves in weights that cost the
    loss next to nothing pays for others' 8 bit, so it needs measured costs.

    Args:
        scheme: The model's, with an average.
        dtype: The type that the weight is computed in.
    """
    own = replace(scheme, keep=(), overrides=(), average=None, mixed=False)
    return {
        "4": own,
        "4 wide": replace(own, block_size=min(4 * own.block_size, BLOCK_SIZES[-1])),
        "8": Quantization(8),
        "16": Quantization(16, "fp16" if dtype is torch.float16 else "bf16"),
    }


def spendable(entry: Entry, groups: list[TiedGroup], scheme: Quantization) -> list[TiedGroup]:
    """Return the weights among which an average is spent: all that are quantized, and have no override."""
    return _spendable(groups, scheme, _by_scheme(entry, groups, scheme))


def _spendable(groups: list[TiedGroup], scheme: Quantization, made: Plan) -> list[TiedGroup]:
    return [
        group
        for group in groups
        if group.name in made
        and isinstance(group.value, nn.Parameter)  # not another library's, which stays as it is
        and group.value.is_floating_point()
        and _override(group, scheme) is None
    ]


def _within(
    average: float,
    entry: Entry,
    groups: list[TiedGroup],
    scheme: Quantization,
    made: Plan,
    dtype: torch.dtype | None,
    costs: Costs | None,
) -> Plan:
    """Return which of `offered` each weight of `spendable` gets, so that the whole model is within the average.

    Raises:
        QuantizationError: even the smallest forms are above it.
    """
    free = _spendable(groups, scheme, made)
    names = {group.name for group in free}
    fixed = sum(
        planned_bytes(entry, group, made.get(group.name), dtype)[0] for group in groups if group.name not in names
    )
    values = sum(group.value.shape.numel() for group in groups)
    choices: dict[str, list[Form]] = {}
    chosen: dict[str, list[Quantization]] = {}
    for group in free:
        own = dtype or group.value.dtype
        choices[group.name], chosen[group.name] = [], []
        for label, width in offered(scheme, own).items():
            if label == "4 wide" and (costs is None or _looked_up(group, width.block_size)):
                continue
            size, plain = planned_bytes(entry, group, width, dtype)
            cost = assumed_error(width, own) if costs is None else costs[group.name][label]
            choices[group.name].append(Form(size, 0.0 if plain else cost))
            chosen[group.name].append(width)
    budget = int(average * values / 8)
    if fixed + least(choices) > budget:
        lowest = math.ceil(800 * (fixed + least(choices)) / max(values, 1)) / 100
        raise QuantizationError(
            f"an average of {average:g} bits: the least for this model is {lowest:g}, with all that is quantized in "
            f"its smallest form and {8 * fixed / max(values, 1):.2f} of it for what is kept or has a width of its own"
        )
    return {name: chosen[name][place] for name, place in spend(choices, budget - fixed).items()}


def _looked_up(group: TiedGroup, block: int) -> bool:
    """Return whether a weight is an embedding's, of which single rows are dequantized only if blocks end with them."""
    shape = torch.Size(group.value.shape)
    return layout_of([(ref.layer, ref.attribute) for ref in group.refs], shape).zero_first and shape[-1] % block != 0


def planned_bytes(
    entry: Entry, group: TiedGroup, scheme: Quantization | None, dtype: torch.dtype | None
) -> tuple[int, bool]:
    """Return the bytes that a weight will take, from its shape alone, and whether it stays plain.

    Args:
        entry: The model's entry, whose architecture may keep the weight plain.
        group: The weight.
        scheme: Its own quantization; None if it is to stay plain. One that is managed already stays as it is.
        dtype: As of `plan`.
    """
    value = group.value
    if isinstance(value, ManagedWeight):
        return stored_bytes(value), False
    dtype = dtype if dtype is not None and value.dtype.is_floating_point else value.dtype
    empty = torch.empty(value.shape, dtype=value.dtype, device="meta")
    packed = None if scheme is None else pack_weight(entry, group, empty, {group.name: scheme}, dtype)
    if packed is None:
        return value.shape.numel() * dtype.itemsize, True
    return sum(tensor.numel() * tensor.element_size() for tensor in packed.tensors()), False


def _override(group: TiedGroup, scheme: Quantization) -> Quantization | None:
    """Return the quantization that the scheme gives to this weight in particular."""
    return next((own for name, own in scheme.overrides if _is_named(group, (name,))), None)


def _is_named(group: TiedGroup, names: tuple[str, ...]) -> bool:
    """Return whether one of the names is the end of a weight's name, with or without its last `.weight`."""
    return any(matches(path_of(ref), names) or matches(ref.name, names) for ref in group.refs)


def _check_names(groups: list[TiedGroup], argument: str, names: Iterable[str]) -> None:
    """Raise `QuantizationError` if one of the names matches no weight."""
    paths = sorted({path_of(ref) for group in groups for ref in group.refs})
    for name in names:
        if not any(_is_named(group, (name,)) for group in groups):
            endings = sorted({path.split(".")[-1] for path in paths})
            raise QuantizationError(
                f"{argument}: {name!r} matches no weight.{did_you_mean(name, [*endings, *paths])} Weights end in: "
                f"{', '.join(endings[:12])}{', …' if len(endings) > 12 else ''}"
            )
