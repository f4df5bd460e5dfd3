"""The updates that an adapter's tensors describe: every key finds its weight and every weight its keys, or an error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from zoo import host
from zoo.adapters import peft_config, peft_keys
from zoo.adapters.config import Adapter, LoRA
from zoo.adapters.experts import Experts
from zoo.adapters.peft_keys import OWN, PREFIX, Key, Slot, check_shapes
from zoo.adapters.targets import Group, adaptable, layout_of, path_of
from zoo.errors import AdapterError
from zoo.weights.manage import Site, grouped_sites
from zoo.weights.standin import Weight
from zoo.weights.store import Store
from zoo.weights.update import LowRank, Update

if TYPE_CHECKING:
    from zoo.model import Model

ALIASES = {"lora_A": "A", "lora_B": "B"}  # in zoo's own keys, for an update's parameters


class Places(NamedTuple):
    """Where a model's weights are, as an adapter's file may call them."""

    slots: dict[str, Slot]  # by what PEFT's keys begin with
    groups: dict[str, Group]  # by parameter name, each place of a tied weight


def places_of(module: nn.Module, raw: Mapping[str, Any]) -> Places:
    """The places of a model's weights for an adapter of the configuration ``raw``."""
    groups = {site.name: group for group in grouped_sites(module) for site in group[1]}
    parameters = raw.get("target_parameters") or ()
    if not isinstance(parameters, list | tuple) or not all(isinstance(name, str) and name for name in parameters):
        raise AdapterError(f"target_parameters: expected a list of parameters' names, got {parameters!r}")
    return Places(peft_keys.slots(module, parameters), groups)


def updates_of(
    model: Model, config: Adapter, raw: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> dict[str, Update]:
    """The updates, by the name of each weight's first place, ready to be attached.

    tensors: the file's, under PEFT's names, with or without ``base_model.model.``, and zoo's own. Raises
    ``AdapterError`` that names what does not fit.
    """
    places = places_of(model.module, raw)
    bare = not any(key.startswith((PREFIX, OWN)) for key in tensors)  # as transformers may write them
    found: dict[tuple[bool, str], dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        key = _key(name, PREFIX + name if bare else name, places, model.entry.name)
        if key is None:
            _check_copy(name, PREFIX + name if bare else name, places, tensor)
        else:
            if key.factor == "magnitude" and not getattr(config, "dora", False):
                raise _unexpected(name)
            _check_values(key.path, key.factor, tensor)
            found.setdefault((key.own, key.path), {})[key.factor] = tensor
    if not found:
        raise AdapterError("the file holds no adapter at all")
    updates: dict[str, Update] = {}
    covered: set[str] = set()
    for (own, path), factors in found.items():
        site = places.groups[path][1][0] if own else places.slots[path].site
        group = places.groups[site.name]
        make = _own_update if own else _low_rank
        update = make(model, config, group, places.slots.get(path), site, factors)
        first = group[1][0].name
        if first in updates and not _equal(updates[first], update):
            raise AdapterError(
                f"{path} shares its weight with {path_of(group[1][0])}, and the two have different adapters; zoo keeps "
                "tied weights tied and cannot load it"
            )
        updates[first] = update
        covered |= {other.name for other in group[1]} if own else {site.name}
    _check_complete(raw, places, updates, covered)
    return updates


# Keys


def _key(name: str, full: str, places: Places, model: str) -> Key | None:
    """What a key speaks of; None for a copy of the base's own weights. Raises ``AdapterError`` for any other."""
    if full.startswith(OWN):
        return _own_key(name, full.removeprefix(OWN), places, model)
    rest = full.removeprefix(PREFIX)
    if rest == full:
        raise _unexpected(name)
    key = peft_keys.parse_lora(rest, places.slots)
    if key is not None:
        slot = places.slots.get(key.path)
        if slot is None or slot.site.name not in places.groups:
            raise AdapterError(f"{name!r} matches no weight of {model!r}; it was made for another model")
        return key
    if _base_copy(rest, places) is not None:
        return None
    raise _unexpected(name)


def _own_key(name: str, rest: str, places: Places, model: str) -> Key:
    parts = rest.split(".")
    for end in range(len(parts) - 1, 0, -1):
        path = ".".join(parts[:end])
        if path in places.groups:
            factor = ".".join(parts[end:])
            return Key(True, path, ALIASES.get(factor, factor))
    if parts[-1] in ALIASES and len(parts) > 1:
        raise AdapterError(f"{name!r} matches no weight of {model!r}; it was made for another model")
    raise _unexpected(name)


def _unexpected(name: str) -> AdapterError:
    return AdapterError(f"unexpected key {name!r}: expected {PREFIX}<layer's path>.lora_A.weight and the like")


def _base_copy(rest: str, places: Places) -> Site | None:
    """The place whose own weight a key holds: PEFT puts embeddings and heads that it adapts beside them."""
    path, _, attribute = rest.rpartition(".")
    slot = places.slots.get(path.removesuffix(peft_keys.WRAPPED))
    if attribute != "weight" or slot is None or slot.site.attribute != "weight":
        return None
    held = places.groups[slot.site.name][0]
    return slot.site if adaptable(held) else None


def _check_copy(name: str, full: str, places: Places, tensor: Tensor) -> None:
    """A copy of the base's weight must be this base's, up to its precision."""
    site = _base_copy(full.removeprefix(PREFIX), places)
    assert site is not None, name
    held = places.groups[site.name][0]
    mine = held.base_dense().detach() if isinstance(held, Store) else held.detach()
    tolerance = 0.3 if isinstance(held, Store) and held.packed is not None else 0.02
    same = tuple(tensor.shape) == tuple(mine.shape) and tensor.is_floating_point()
    if same and not mine.is_meta:
        mine = mine.float()
        same = bool((tensor.to(mine) - mine).norm() <= tolerance * mine.norm())
    if not same:
        raise AdapterError(
            f"it holds the weight of {path_of(site)} itself, {tuple(tensor.shape)}, and that is not this base's; "
            "the base was extended or trained, and zoo does not load such parts of it"
        )


def _check_values(path: str, factor: str, tensor: Tensor) -> None:
    finite = tensor.is_floating_point()
    if finite and tensor.numel():
        low, high = torch.aminmax(tensor)  # NaN and Inf show in the extremes, and no temporary is made
        finite = bool(torch.isfinite(low) & torch.isfinite(high))
    if not finite:
        raise AdapterError(f"{path}: expected finite numbers in its factor {factor}, got NaN, Inf or no floats")


# Updates


def _low_rank(
    model: Model, config: Adapter, group: Group, slot: Slot | None, site: Site, factors: dict[str, Tensor]
) -> Update:
    """LoRA's update from PEFT's factors."""
    assert isinstance(config, LoRA)
    assert slot is not None
    name = path_of(site) if slot.kind in ("linear", "conv", "embedding", "") else slot.site.name
    missing = sorted({"A", "B"} - set(factors))
    if missing:
        raise AdapterError(f"{name} has only its factor {next(iter(factors))}, the other one is missing")
    if reason := slot.reason_against():
        raise AdapterError(f"{site.name}: its adapter is not one that zoo can apply: {reason}")
    held, sites = group
    shape, layout, rank = held.shape, layout_of(sites, held.shape), config.rank_of(slot.name)
    if slot.kind == "experts":
        return _experts(config, slot, held, factors)
    A, B = peft_keys.factors_from_file(slot, layout, shape, factors["A"], factors["B"])
    if A.shape[0] != rank:
        raise AdapterError(f"{name}: its factors have rank {A.shape[0]}, the configuration says {rank}")
    one = replace(config, rank=rank, alpha=config.alpha_of(slot.name), rank_pattern={}, alpha_pattern={})
    update = host.inject_adapter(model.entry, site.name, _weight(group), one)
    if not isinstance(update, LowRank) or update.A.shape != A.shape or update.B.shape != B.shape:
        raise AdapterError(f"{name}: no plugin makes a low-rank update of rank {A.shape[0]} for it")
    _fill(update, {"A": A, "B": B})
    return update


def _experts(config: LoRA, slot: Slot, held: nn.Parameter | Store, factors: dict[str, Tensor]) -> Update:
    rank, inputs_first = config.rank_of(slot.name), bool(getattr(slot.site.layer, "is_transposed", False))
    experts, outputs, inputs = held.shape
    if inputs_first:
        outputs, inputs = inputs, outputs
    check_shapes(slot.site, (factors["A"], factors["B"]), ((rank * experts, inputs), (outputs, rank * experts)))
    update = Experts.empty(held.shape, rank, config.scale_of(slot.name), inputs_first, held.device)
    if held.device.type != "meta":
        update.fill_from_peft(factors["A"], factors["B"])
    return update


def _own_update(
    model: Model, config: Adapter, group: Group, slot: Slot | None, site: Site, factors: dict[str, Tensor]
) -> Update:
    """Any kind's update from zoo's own keys: the update's parameters under their own names."""
    held = group[0]
    if isinstance(config, LoRA) and factors.keys() == {"A", "B"} and factors["A"].dim() == 3 == len(held.shape):
        raise AdapterError(f"{site.name}: three-dimensional factors lie under PEFT's keys only")
    update = injected(model, config, group, factors)
    _fill(update, factors)
    return update


def injected(model: Model, config: Adapter, group: Group, factors: Mapping[str, Tensor]) -> Update:
    """The update that the kind makes for a weight, whose parameters must be ``factors`` in name and shape.

    It is made without values first: a configuration may claim any size, and only what the file holds is allocated.
    """
    name = group[1][0].name
    for weight in (_empty(group), _weight(group)):
        update = host.inject_adapter(model.entry, name, weight, config)
        if update is None:
            raise AdapterError(f"no plugin makes an adapter of kind {config.kind!r} for {name}")
        expected = dict(update.named_parameters())
        unexpected = sorted(set(factors) - set(expected))
        missing = sorted(set(expected) - set(factors))
        if unexpected:
            raise AdapterError(f"unexpected key {f'{OWN}{name}.{unexpected[0]}'!r}, expected {', '.join(expected)}")
        if missing:
            raise AdapterError(f"{name} has only its factor {', '.join(factors)}, and {missing[0]} is missing")
        order = list(expected)
        check_shapes(group[1][0], (factors[n] for n in order), (tuple(expected[n].shape) for n in order))
    assert update is not None
    return update


def _weight(group: Group) -> Weight:
    held, sites = group
    return Weight(held if isinstance(held, Store) else Store(held, layout_of(sites, held.shape)))


def _empty(group: Group) -> Weight:
    """A stand-in for a weight like the group's, without values."""
    held, sites = group
    empty = nn.Parameter(torch.empty(held.shape, dtype=held.dtype, device="meta"), requires_grad=False)
    return Weight(Store(empty, layout_of(sites, held.shape)))


@torch.no_grad()
def _fill(update: Update, values: Mapping[str, Tensor]) -> None:
    for name, parameter in update.named_parameters():
        if parameter.device.type != "meta":
            parameter.copy_(values[name])


def _equal(one: Update, other: Update) -> bool:
    pairs = list(zip(one.parameters(), other.parameters(), strict=True)) if type(one) is type(other) else []
    alike = getattr(one, "scale", None) == getattr(other, "scale", None)
    return bool(pairs) and alike and all(a.is_meta or torch.equal(a, b) for a, b in pairs)


# Completeness


def _check_complete(raw: Mapping[str, Any], places: Places, updates: Mapping[str, Update], covered: set[str]) -> None:
    expected: Callable[[str], bool] = peft_config.expected_paths(raw)
    able = {slot.site.name: slot for slot in places.slots.values() if not slot.reason_against()}
    for name, (held, sites) in places.groups.items():
        if name in covered or not adaptable(held):
            continue
        site = next(site for site in sites if site.name == name)
        if sites[0].name in updates:
            other = path_of(next(place for place in sites if place.name in covered))
            raise AdapterError(
                f"{path_of(site)} shares its weight with {other}, which is adapted, and is not adapted itself; zoo "
                "keeps tied weights tied and cannot load it"
            )
        slot = able.get(name)
        if slot is not None and (slot.is_parameter or expected(slot.name)):
            raise AdapterError(f"the configuration targets {path_of(site)}, for which the file has no factors")
