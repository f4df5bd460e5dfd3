"""Attaching an adapter to a module, switching adapters, and taking them away."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn

from zoo import host
from zoo.adapters.config import Adapter, Full
from zoo.adapters.targets import Group, layout_of, named, targeted
from zoo.errors import AdapterError
from zoo.weights.manage import Site, grouped_sites, manage, stores, unmanage
from zoo.weights.standin import Weight
from zoo.weights.store import Store
from zoo.weights.update import Update

if TYPE_CHECKING:
    from zoo.registry import Entry


def make_updates(module: nn.Module, entry: Entry, config: Adapter) -> dict[str, Update]:
    """One update for every weight that the adapter changes, by the name of the weight's first place.

    Those of the kind for the weights that it targets; full training for what ``modules_to_save`` and ``bias`` name.
    Nothing is attached yet. A tied weight gets one update, which all its
    places will see. Raises ``AdapterError`` when a target matches nothing.
    """
    chosen = named(module, config.targets) if config.any_shape else targeted(module, config.targets)
    full = beside(module, config, chosen)
    updates: dict[str, Update] = {}
    for held, sites in full:
        updates[sites[0].name] = _ask(entry, held, sites, Full(targets=(sites[0].name,)))
    for held, sites in chosen:
        if sites[0].name not in updates:
            updates[sites[0].name] = _ask(entry, held, sites, config)
    return updates


def beside(module: nn.Module, config: Adapter, chosen: list[Group]) -> list[Group]:
    """The weights that train fully beside an adapter's own updates, as ``modules_to_save`` and ``bias`` say.

    chosen: those that the adapter targets. ``bias`` follows PEFT: parameters called ``bias``, all of them or those of
    the targeted weights' layers.
    """
    found = named(module, tuple(config.modules_to_save), "modules_to_save:") if config.modules_to_save else []
    taken = {id(held) for held, _ in found}
    layers = {id(site.layer) for held, sites in chosen if id(held) not in taken for site in sites}
    if config.bias != "none":
        for held, sites in grouped_sites(module):
            right = any(
                site.attribute == "bias" and (config.bias == "all" or id(site.layer) in layers) for site in sites
            )
            if right and held.dtype.is_floating_point and id(held) not in taken:
                found.append((held, sites))
    return found


def _ask(entry: Entry, held: nn.Parameter | Store, sites: list[Site], config: Adapter) -> Update:
    name = sites[0].name
    weight = Weight(held if isinstance(held, Store) else Store(held, layout_of(sites, held.shape)))
    update = host.inject_adapter(entry, name, weight, config)
    if update is None:
        raise AdapterError(f"no plugin makes an adapter of kind {config.kind!r} for {name}")
    return update


def attach(module: nn.Module, name: str, updates: Mapping[str, Update]) -> None:
    """Put the updates of one adapter in place, and what goes with them to biases; not yet active."""
    groups = grouped_sites(module)
    updates = {**_for_biases(groups, updates), **updates}
    for held, sites in groups:
        update = updates.get(sites[0].name)
        if update is not None:
            store = held if isinstance(held, Store) else manage(sites, held, layout_of(sites, held.shape))
            store.add(name, update)


def _for_biases(groups: list[Group], updates: Mapping[str, Update]) -> dict[str, Update]:
    """What ``Update.for_bias`` gives for the biases of the updated weights' layers, by name of the first place."""
    biases = {(id(site.layer), site.attribute): (held, sites[0].name) for held, sites in groups for site in sites}
    found: dict[str, Update] = {}
    for _, sites in groups:
        update = updates.get(sites[0].name)
        for site in sites if update is not None else ():
            attribute = site.attribute.replace("weight", "bias")
            bias, name = biases.get((id(site.layer), attribute), (None, ""))
            if bias is None or attribute == site.attribute or not bias.dtype.is_floating_point:
                continue
            changed = update.for_bias(bias.shape)  # type: ignore[union-attr]
            if changed is not None:
                found.setdefault(name, changed)
    return found


def activate(module: nn.Module, weights: Mapping[str, float]) -> None:
    """Let exactly these adapters apply, each scaled by its weight, and train; the others rest, and so does weight 0."""
    names = tuple(weights)
    for store in stores(module).values():
        store.activate(names, weights)
        for name, update in store.updates.items():
            update.requires_grad_(weights.get(name, 0.0) != 0.0)


def detach(module: nn.Module, name: str) -> None:
    """Take an adapter away; a weight that then has nothing special about it becomes a plain parameter again."""
    for held, sites in grouped_sites(module):
        if isinstance(held, Store):
            held.remove(name)
            if held.base is not None and held.plain() is held.base and not held.updates:
                unmanage(sites, held.base)


@torch.no_grad()
def unload(module: nn.Module) -> None:
    """Plain parameters everywhere: each weight with what was merged into it, unmerged adapters dropped."""
    for held, sites in grouped_sites(module):
        if isinstance(held, Store):
            plain = held.plain()
            unmanage(sites, plain if plain is not None else nn.Parameter(held.base_dense()))
