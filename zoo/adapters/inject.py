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

    Those of the kind for the weights that it targets (and their biases, if it changes those too); full training for
    what ``modules_to_save`` and ``bias`` name. Nothing is attached yet. A tied weight gets one update, which all its
    places will see. Raises ``AdapterError`` when a target matches nothing.
    """
    chosen = named(module, config.targets) if config.any_shape else targeted(module, config.targets)
    full = beside(module, config, chosen)
    updates: dict[str, Update] = {}
    for held, sites in full:
        updates[sites[0].name] = _ask(entry, held, sites, Full(targets=(sites[0].name,)))
    chosen = [(held, sites) for held, sites in chosen if sites[0].name not in updates]
    biases = _biases(module)
    for held, sites in chosen:
        updates[sites[0].name] = update = _ask(entry, held, sites, config)
        for site in sites:
            bias = biases.get((id(site.layer), site.attribute.replace("weight", "bias")))
            changed = None if bias is None or bias in updates else update.for_bias()
            if bias is not None and changed is not None:
                updates[bias] = changed
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


def _biases(module: nn.Module) -> dict[tuple[int, str], str]:
    """(layer, attribute) of each parameter that is called a bias → the name of the first place that shares it."""
    return {
        (id(site.layer), site.attribute): sites[0].name
        for _, sites in grouped_sites(module)
        for site in sites
        if "bias" in site.attribute
    }


def attach(module: nn.Module, name: str, updates: Mapping[str, Update]) -> None:
    """Put the updates of one adapter in place, not yet active."""
    for held, sites in grouped_sites(module):
        update = updates.get(sites[0].name)
        if update is not None:
            store = held if isinstance(held, Store) else manage(sites, held, layout_of(sites, held.shape))
            store.add(name, update)


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
