"""Make an adapter's updates from its file: every key must match a weight, and every targeted weight have its keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from zoo.adapters.adapter_set import AdapterSet
from zoo.errors import AdapterError
from zoo.formats.peft import config as peft_config
from zoo.formats.peft import keys
from zoo.formats.peft.keys import PREFIX, ZOO_PREFIX, Slot, check_shapes
from zoo.formats.peft.places import Place, Reading, changed_rows, check_values, new_reading, place_of, ref_of
from zoo.methods.config import Adapter, Full, LoRA, Ranked
from zoo.methods.dora import DoRAUpdate
from zoo.methods.rows import RowsUpdate, TrainableTokens
from zoo.methods.targets import adaptable, path_of
from zoo.plugin.injecting import inject
from zoo.weights.lazy_weight import LazyWeight
from zoo.weights.update import LoRAUpdate, LowRankUpdate, Update
from zoo.weights.walk import ModuleIndex, TiedGroup


def updates_of(
    adapters: AdapterSet,
    index: ModuleIndex,
    config: Adapter,
    fields: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
) -> tuple[dict[str, Update], dict[str, Tensor]]:
    """Return the updates by the name of each weight's first place, ready to be attached, and the adapter's buffers.

    Args:
        adapters: the model's adapters.
        index: of the walk over the module.
        config: the adapter's configuration.
        fields: the same as PEFT's fields.
        tensors: the file's, under PEFT's names, with or without `base_model.model.`, and zoo's.

    Raises:
        AdapterError: keys, shapes or values do not fit the model or the configuration.
    """
    reading = new_reading(adapters, index, config, fields)
    bare = not any(key.startswith((PREFIX, ZOO_PREFIX)) for key in tensors)  # as transformers may write them
    found: dict[Place, dict[str, Tensor]] = {}
    buffers: dict[str, Tensor] = {}
    copies: dict[str, tuple[tuple[int, ...], Tensor]] = {}
    for name, tensor in tensors.items():
        full = PREFIX + name if bare else name
        key = place_of(reading, name, full)
        if key is None:
            weight, rows = changed_rows(reading, full.removeprefix(PREFIX), tensor)
            if rows:
                copies[weight] = (rows, tensor)
            continue
        if key[0].how == "buffer":
            buffers |= _buffer(reading, key[0].path, tensor)
            continue
        check_values(*key, tensor)
        found.setdefault(key[0], {})[key[1]] = tensor
    if not found and not copies:
        raise AdapterError("the file holds no adapter at all")
    updates: dict[str, Update] = {}
    covered: set[str] = set()
    for place, factors in found.items():
        ref = reading.slots[place.path].ref if place.how == "peft" else ref_of(reading, place.path)
        group = reading.groups[ref.name]
        update = _MAKERS[place.how](reading, group, place.path, factors)
        first = group.name
        if first in updates and not _equal(updates[first], update):
            raise AdapterError(
                f"{path_of(ref)} shares its weight with {path_of(group.refs[0])}, and the two have different "
                "adapters; zoo keeps tied weights tied and cannot load it"
            )
        updates[first] = update
        everywhere = place.how == "zoo" or (place.how == "rows" and keys.ties_rows(adapters.module, group.refs))
        covered |= {other.name for other in group.refs} if everywhere else {ref.name}
    for weight, (rows, copy) in copies.items():
        updates[weight] = _with_rows(reading, weight, updates.get(weight), rows, copy)
        covered |= {other.name for other in reading.groups[weight].refs}
    _check_complete(reading, fields, updates, covered)
    return updates, buffers


def _from_peft(reading: Reading, group: TiedGroup, path: str, factors: dict[str, Tensor]) -> Update:
    slot, config = reading.slots[path], reading.config
    if isinstance(config, LoRA):
        return _low_rank(reading, config, group, slot, factors)
    if not keys.has_kind(config.kind, slot):
        layer = type(slot.ref.layer).__name__
        raise AdapterError(f"{slot.ref.name}: PEFT's {config.kind} of a {layer} is not one that zoo computes alike")
    if isinstance(config, Ranked):
        config = _at(config, slot.name)
    update = _injected(reading.adapters, config, group, factors, PREFIX + path)
    _fill(update, factors)
    return update


def _at(config: Any, name: str, **more: Any) -> Any:
    """Return a ranked configuration with its rank and alpha for `name`, and without patterns."""
    rank, alpha = config.rank_of(name), config.alpha_of(name)
    return replace(config, rank=rank, alpha=alpha, rank_pattern={}, alpha_pattern={}, **more)


def _low_rank(reading: Reading, config: LoRA, group: TiedGroup, slot: Slot, factors: dict[str, Tensor]) -> Update:
    """Return LoRA's update, or DoRA's, from PEFT's factors."""
    ref, value = slot.ref, group.value
    name = path_of(ref)
    needed = {"A", "B"} | ({"magnitude"} if config.dora and not slot.is_parameter else set())
    if missing := sorted(needed - set(factors)):
        raise _incomplete(name, factors, missing[0])
    if reason := slot.reason_against():
        raise AdapterError(f"{ref.name}: its adapter is not one that zoo can apply: {reason}")
    if slot.kind == "experts":
        return _stack(config, slot, value.shape, value.device, factors)
    layout, rank = group.lazy().layout, config.rank_of(slot.name)
    A, B = keys.factors_from_file(slot, layout, value.shape, factors["A"], factors["B"])
    if A.shape[0] != rank:
        raise AdapterError(f"{name}: its factors have rank {A.shape[0]}, the configuration says {rank}")
    values = {"A": A, "B": B}
    if "magnitude" in needed:
        check_shapes(ref, (factors["magnitude"],), (keys.magnitude_shape(slot, value.shape),))
        values["magnitude"] = factors["magnitude"].flatten()
    alone = _at(config, slot.name, init="default", modules_to_save=(), bias="none")
    update = inject(reading.adapters.entry, ref.name, group.lazy(), alone)
    shapes = {key: tuple(tensor.shape) for key, tensor in update.named_parameters()} if update is not None else {}
    if not isinstance(update, LowRankUpdate) or shapes != {key: tuple(tensor.shape) for key, tensor in values.items()}:
        raise AdapterError(f"{name}: no plugin makes {'a DoRA' if config.dora else 'a low-rank'} update like it")
    if isinstance(update, DoRAUpdate) and slot.inputs_first != layout.transposed:
        raise AdapterError(f"{name}: it shares its weight with a layer whose outputs lie in the other dimension")
    _fill(update, values)
    return update


def _stack(config: LoRA, slot: Slot, shape: torch.Size, device: torch.device, factors: dict[str, Tensor]) -> LoRAUpdate:
    """Return the update of a stack of matrices."""
    rank, layout = config.rank_of(slot.name), keys.stack_layout(slot.ref)
    A, B = keys.stack_from_file(slot, layout, shape, rank, factors["A"], factors["B"])
    update = LoRAUpdate(shape, rank, config.scale_of(slot.name), layout=layout, device=device)
    _fill(update, {"A": A, "B": B})
    return update


def _from_zoo(reading: Reading, group: TiedGroup, path: str, factors: dict[str, Tensor]) -> Update:
    """Return an update of any kind from zoo's keys, which have the names of the update's parameters."""
    config = reading.config
    if factors.keys() == {"weight"} and _is_full(reading, path, group):
        config = Full(targets=(path,))
    update = _injected(reading.adapters, config, group, factors, ZOO_PREFIX + path)
    _fill(update, factors)
    return update


def _is_full(reading: Reading, path: str, group: TiedGroup) -> bool:
    names = {ref.name for ref in group.refs}
    biases = reading.config.bias != "none" and all(ref.attribute == "bias" for ref in group.refs)
    return bool(names & reading.saved) or biases


def _from_full(reading: Reading, group: TiedGroup, path: str, factors: dict[str, Tensor]) -> Update:
    """Return the update of a fully trained weight: PEFT's file has the weight itself."""
    check_shapes(group.refs[0], factors.values(), (tuple(group.value.shape),))
    update = _injected(reading.adapters, Full(targets=(path,)), group, factors, PREFIX + path)
    _fill(update, factors)
    return update


def _from_rows(reading: Reading, group: TiedGroup, path: str, factors: dict[str, Tensor]) -> Update:
    """Return the update of some rows of a weight: the file has the rows themselves."""
    indices = reading.rows[group.name]
    check_shapes(group.refs[0], factors.values(), ((len(indices), *group.value.shape[1:]),))
    update = RowsUpdate(group.lazy(), indices)
    _fill(update, factors)
    return update


def _with_rows(reading: Reading, name: str, update: Update | None, rows: tuple[int, ...], copy: Tensor) -> Update:
    """Return an update of the rows that `update` trains already and of those in which a copy differs from the base."""
    trained = update.indices if isinstance(update, RowsUpdate) else ()
    if not isinstance(reading.config, LoRA | TrainableTokens) or not isinstance(update, RowsUpdate | None):
        raise AdapterError(
            f"it holds rows of {name} itself that are not this base's, beside an adapter of it; the base was extended "
            "or trained, and zoo loads new rows only of a weight that has no other adapter"
        )
    added = tuple(row for row in rows if row not in set(trained))
    values = [copy[list(added)].float()] if added else []
    if isinstance(update, RowsUpdate):
        values = [update.rows.detach().cpu(), *values]
    result = RowsUpdate(reading.groups[name].lazy(), (*trained, *added))
    _fill(result, {"rows": torch.cat(values)})
    return result


def _buffer(reading: Reading, name: str, tensor: Tensor) -> dict[str, Tensor]:
    """Return a buffer's value from the file, by its first name in the module."""
    layer, attribute, _ = reading.buffers[name]
    present: Tensor = layer._buffers[attribute]  # type: ignore[assignment]
    if tensor.shape != present.shape or tensor.is_floating_point() != present.is_floating_point():
        raise AdapterError(
            f"{name}: expected {tuple(present.shape)} of {present.dtype}, got {tuple(tensor.shape)} of {tensor.dtype}; "
            "the adapter was made for another model"
        )
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise AdapterError(f"{name}: expected finite numbers, got NaN or Inf")
    first = next(key for key, ref in reading.buffers.items() if ref.layer is layer and ref.attribute == attribute)
    return {first: tensor.to(present.device, copy=True)}


_MAKERS: dict[str, Callable[[Reading, TiedGroup, str, dict[str, Tensor]], Update]]
_MAKERS = {"peft": _from_peft, "zoo": _from_zoo, "full": _from_full, "rows": _from_rows}


def _injected(
    adapters: AdapterSet, config: Adapter, group: TiedGroup, factors: Mapping[str, Tensor], place: str
) -> Update:
    """Return the update that the adapter's kind makes for a weight, with parameters named and shaped like `factors`.

    It is made without values first: a configuration may claim any size, and only the sizes in the file are allocated.
    """
    name = group.name
    for weight in (_empty(group), group.lazy()):
        update = inject(adapters.entry, name, weight, config)
        if update is None:
            raise AdapterError(f"no plugin makes an adapter of kind {config.kind!r} for {name}")
        expected = dict(update.named_parameters())
        unexpected = sorted(set(factors) - set(expected))
        missing = sorted(set(expected) - set(factors))
        if unexpected:
            raise AdapterError(f"unexpected key {f'{place}.{unexpected[0]}'!r}, expected {', '.join(expected)}")
        if missing:
            raise _incomplete(name, factors, missing[0])
        order = list(expected)
        check_shapes(group.refs[0], (factors[n] for n in order), (tuple(expected[n].shape) for n in order))
    assert update is not None
    return update


def _incomplete(name: str, factors: Mapping[str, Tensor], missing: str) -> AdapterError:
    some = "factor" if len(factors) == 1 else "factors"
    return AdapterError(f"{name} has only its {some} {' and '.join(sorted(factors))}, and {missing} is missing")


def _empty(group: TiedGroup) -> LazyWeight:
    """Return a lazy weight like the group's, without values."""
    value = group.value
    empty = nn.Parameter(torch.empty(value.shape, dtype=value.dtype, device="meta"), requires_grad=False)
    return LazyWeight(group.managed(empty))


@torch.no_grad()
def _fill(update: Update, values: Mapping[str, Tensor]) -> None:
    for name, parameter in update.named_parameters():
        if parameter.device.type != "meta":
            parameter.copy_(values[name])


def _equal(one: Update, other: Update) -> bool:
    if type(one) is not type(other) or getattr(one, "scale", None) != getattr(other, "scale", None):
        return False
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(a.shape == b.shape and (a.is_meta or torch.equal(a, b)) for a, b in pairs)


# Completeness


def _check_complete(
    reading: Reading, fields: Mapping[str, Any], updates: Mapping[str, Update], covered: set[str]
) -> None:
    expected: Callable[[str], bool] = peft_config.expected_paths(fields)
    kind = reading.config.kind
    computed: Callable[[Slot], bool] = (
        (lambda slot: not slot.reason_against()) if kind == "lora" else (lambda slot: keys.has_kind(kind, slot))
    )
    able = {slot.ref.name: slot for slot in reading.slots.values() if computed(slot)}
    for name, group in reading.groups.items():
        if name in covered:
            continue
        value, refs = group.value, group.refs
        ref = next(ref for ref in refs if ref.name == name)
        if refs[0].name in reading.rows and refs[0].name not in updates:
            raise AdapterError(f"the configuration trains rows of {name}, and the file does not hold them")
        if name in reading.saved and value.dtype.is_floating_point:
            raise AdapterError(f"the configuration saves {name} whole, and the file does not hold it")
        if refs[0].name in updates and adaptable(value):
            other = path_of(next(place for place in refs if place.name in covered))
            raise AdapterError(
                f"{path_of(ref)} shares its weight with {other}, which is adapted, and is not adapted itself; zoo "
                "keeps tied weights tied and cannot load it"
            )
        slot = able.get(name) if adaptable(value) else None
        if slot is not None and (slot.is_parameter or expected(slot.name)):
            raise AdapterError(f"the configuration targets {path_of(ref)}, for which the file has no factors")
