"""Attaching an adapter to a module, switching adapters, and taking them away."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn

from zoo import host
from zoo.adapters.config import Adapter
from zoo.adapters.targets import layout_of, targeted
from zoo.errors import AdapterError
from zoo.weights.manage import grouped_sites, manage, stores, unmanage
from zoo.weights.standin import Weight
from zoo.weights.store import Store
from zoo.weights.update import Update

if TYPE_CHECKING:
    from zoo.registry import Entry


def make_updates(module: nn.Module, entry: Entry, config: Adapter) -> dict[str, Update]:
    """One update for every weight that the adapter targets, by the name of the weight's first place.

    Nothing is attached yet. A tied weight gets one update, which all its places will see. Raises ``AdapterError``
    when a target matches nothing.
    """
    if config.modules_to_save or config.bias != "none":
        raise AdapterError("modules_to_save and bias are not there yet")
    updates = {}
    for held, sites in targeted(module, config.targets):
        weight = Weight(held if isinstance(held, Store) else Store(held, layout_of(sites, held.shape)))
        name = sites[0].name
        update = host.inject_adapter(entry, name, weight, config)
        if update is None:
            raise AdapterError(f"no plugin makes an adapter of kind {config.kind!r} for {name}")
        updates[name] = update
    return updates


def attach(module: nn.Module, name: str, updates: Mapping[str, Update]) -> None:
    """Put the updates of one adapter in place, not yet active."""
    for held, sites in grouped_sites(module):
        update = updates.get(sites[0].name)
        if update is not None:
            store = held if isinstance(held, Store) else manage(sites, held, layout_of(sites, held.shape))
            store.add(name, update)


def activate(module: nn.Module, names: tuple[str, ...]) -> None:
    """Let exactly these adapters apply and train; the others rest."""
    for store in stores(module).values():
        store.activate(names)
        for name, update in store.updates.items():
            update.requires_grad_(name in names)


def detach(module: nn.Module, name: str) -> None:
    """Take an adapter away; a weight that then has nothing special about it becomes a plain parameter again."""
    for held, sites in grouped_sites(module):
        if isinstance(held, Store):
            held.remove(name)
            if held.base is not None and held.merged is None and not held.updates:
                unmanage(sites, held.base)


@torch.no_grad()
def unload(module: nn.Module) -> None:
    """Plain parameters everywhere: each weight with what was merged into it, unmerged adapters dropped."""
    for held, sites in grouped_sites(module):
        if isinstance(held, Store):
            plain = held.plain()
            unmanage(sites, plain if plain is not None else nn.Parameter(held.base_dense()))
