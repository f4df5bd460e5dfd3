"""What every key of an adapter's file speaks of: a place in the model, and which factor of its update."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo.adapters.adapter_set import AdapterSet
from zoo.errors import AdapterError
from zoo.formats.peft import keys
from zoo.formats.peft.keys import PREFIX, ZOO_PREFIX, Slot
from zoo.methods.config import Adapter, LoRA
from zoo.methods.targets import adaptable, match_parameters, matches, path_of
from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.walk import ParameterRef, TiedGroup, tied_groups

ALIASES = {"lora_A": "A", "lora_B": "B"}  # in zoo's own keys, for an update's parameters


class Place(NamedTuple):
    """What a key speaks of. how: "own" (path is a parameter's name), "peft" (a slot's) or "full" (a parameter's)."""

    how: str
    path: str


class Reading(NamedTuple):
    """What the keys of a file are read with."""

    adapters: AdapterSet
    config: Adapter
    slots: dict[str, Slot]  # by what PEFT's keys begin with
    groups: dict[str, TiedGroup]  # by parameter name, each place of a tied weight
    saved: set[str]  # the names of parameters and buffers in modules that are saved whole


def reading_of(adapters: AdapterSet, config: Adapter, raw: Mapping[str, Any]) -> Reading:
    found = tied_groups(adapters.module)
    groups = {site.name: group for group in found for site in group.refs}
    parameters = raw.get("target_parameters") or ()
    if not isinstance(parameters, list | tuple) or not all(isinstance(name, str) and name for name in parameters):
        raise AdapterError(f"target_parameters: expected a list of parameters' names, got {parameters!r}")
    saved: set[str] = set()
    if config.modules_to_save:
        wanted = tuple(config.modules_to_save)
        whole = {site.name for group in match_parameters(found, wanted, "modules_to_save:") for site in group.refs}
        saved = {name for name in whole if _inside(name, wanted)}
        saved |= {name for name, _ in adapters.module.named_buffers() if _inside(name, wanted)}
    return Reading(adapters, config, keys.slots(adapters.module, parameters), groups, saved)


def _inside(name: str, modules: tuple[str, ...]) -> bool:
    """Whether a parameter is in one of the modules, or is one of the names itself."""
    parts = name.split(".")
    return any(matches(".".join(parts[:end]), modules) for end in range(1, len(parts) + 1))


def site_of(reading: Reading, name: str) -> ParameterRef:
    return next(site for site in reading.groups[name].refs if site.name == name)


# Keys


def place_of(reading: Reading, name: str, full: str) -> tuple[Place, str] | None:
    """What a key speaks of, and which factor; None for a copy of the base's own. `AdapterError` for any other."""
    if full.startswith(ZOO_PREFIX):
        return _own_key(reading, name, full.removeprefix(ZOO_PREFIX))
    rest = full.removeprefix(PREFIX)
    if rest == full:
        raise _unexpected(name)
    own = rest if rest in reading.groups else keys.bare_name(rest)
    if own in reading.saved or (own.endswith(".bias") and own in reading.groups and reading.config.bias != "none"):
        return (Place("full", own), "weight") if own in reading.groups else None
    key = _lora_key(reading, name, rest) if isinstance(reading.config, LoRA) else _other_key(reading, rest)
    if key is None and (_base_copy(reading, rest) is None):
        raise _unexpected(name)
    return key


def _lora_key(reading: Reading, name: str, rest: str) -> tuple[Place, str] | None:
    key = keys.parse_lora(rest, reading.slots)
    if key is None:
        return None
    path, factor = key
    if factor == "magnitude" and not getattr(reading.config, "dora", False):
        raise _unexpected(name)
    if path not in reading.slots or reading.slots[path].site.name not in reading.groups:
        raise AdapterError(
            f"{name!r} matches no weight of {reading.adapters.entry.name!r}; it was made for another model"
        )
    return Place("peft", path), factor


def _other_key(reading: Reading, rest: str) -> tuple[Place, str] | None:
    path, _, factor = rest.rpartition(".")
    slot = reading.slots.get(path)
    usable = slot is not None and factor not in ("weight", "bias")
    return (Place("peft", path), factor) if usable and slot.site.name in reading.groups else None  # type: ignore[union-attr]


def _own_key(reading: Reading, name: str, rest: str) -> tuple[Place, str]:
    parts = rest.split(".")
    for end in range(len(parts) - 1, 0, -1):
        path = ".".join(parts[:end])
        if path in reading.groups:
            factor = ".".join(parts[end:])
            return Place("own", path), ALIASES.get(factor, factor)
    if parts[-1] in ALIASES and len(parts) > 1:
        raise AdapterError(
            f"{name!r} matches no weight of {reading.adapters.entry.name!r}; it was made for another model"
        )
    raise _unexpected(name)


def _unexpected(name: str) -> AdapterError:
    return AdapterError(f"unexpected key {name!r}: expected {PREFIX}<layer's path>.lora_A.weight and the like")


def _base_copy(reading: Reading, rest: str) -> ParameterRef | None:
    """The place whose own weight a key holds: PEFT puts embeddings and heads that it adapts beside them."""
    path, _, attribute = rest.rpartition(".")
    slot = reading.slots.get(path.removesuffix(keys.WRAPPED))
    if attribute != "weight" or slot is None or slot.site.attribute != "weight":
        return None
    return slot.site if adaptable(reading.groups[slot.site.name].value) else None


def check_copy(reading: Reading, rest: str, tensor: Tensor) -> None:
    """A copy of the base's weight must be this base's, up to its precision; a buffer must be the model's own."""
    site = _base_copy(reading, rest)
    if site is None:
        name = keys.bare_name(rest)
        mine = reading.adapters.module.get_buffer(name)
        same = tuple(mine.shape) == tuple(tensor.shape) and (mine.is_meta or torch.equal(mine, tensor.to(mine)))
        what = name
    else:
        held = reading.groups[site.name].value
        mine = held.base_tensor().detach() if isinstance(held, ManagedWeight) else held.detach()
        tolerance = 0.3 if isinstance(held, ManagedWeight) and held.packed is not None else 0.02
        same = tuple(tensor.shape) == tuple(mine.shape) and tensor.is_floating_point()
        if same and not mine.is_meta:
            mine = mine.float()
            same = bool((tensor.to(mine) - mine).norm() <= tolerance * mine.norm())
        what = f"the weight of {path_of(site)} itself"
    if not same:
        raise AdapterError(
            f"it holds {what}, {tuple(tensor.shape)}, and that is not this base's; the base was extended or trained, "
            "and zoo does not load such parts of it"
        )


def check_values(place: Place, factor: str, tensor: Tensor) -> None:
    finite = tensor.is_floating_point()
    if finite and tensor.numel():
        low, high = torch.aminmax(tensor)  # NaN and Inf show in the extremes, and no temporary is made
        finite = bool(torch.isfinite(low) & torch.isfinite(high))
    if not finite:
        raise AdapterError(f"{place.path}: expected finite numbers in its factor {factor}, got NaN, Inf or no floats")
