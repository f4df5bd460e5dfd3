"""Saved adapters for a model, from a folder, a file or the Hub: reading them, and making them ready to be attached."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from zoo.formats import saved
from zoo.formats.saved import SavedAdapter
from zoo.hub.adapters import resolve_path
from zoo.storage.atomic import read_whole

if TYPE_CHECKING:
    from zoo.adapters.adapter_set import AdapterSet
    from zoo.adapters.prepared import PreparedAdapter
    from zoo.catalog.entry import Entry
    from zoo.weights.walk import TiedGroup


def read(entry: Entry, where: str | os.PathLike[str]) -> SavedAdapter:
    """Read a saved adapter's files into memory and check them; it takes no turn at a module, and may take long.

    Args:
        entry: of the model that it is for.
        where: a folder, a file, or a Hub reference.

    Raises:
        AdapterError: there is none, or it is damaged.
        HubError: the Hub refused or could not be reached.
    """
    place = resolve_path(where)
    return read_whole(place, lambda: saved.read(entry, place).in_memory())


def prepare(
    adapters: AdapterSet,
    name: str,
    where: str | os.PathLike[str] | SavedAdapter,
    groups: list[TiedGroup] | None = None,
) -> PreparedAdapter:
    """Return a saved adapter ready to be attached; the model is not changed.

    Args:
        adapters: the model's adapters.
        name: the adapter's.
        where: as in `read`, or what it returned.
        groups: the module's parameters, if they were just listed.

    Raises:
        AdapterError: as `read`, or it does not fit.
        HubError: as `read`.
    """
    if isinstance(where, SavedAdapter):
        with adapters.turns:
            return saved.prepare(adapters, name, where, groups)
    place = resolve_path(where)
    with adapters.turns:
        return read_whole(place, lambda: saved.prepare(adapters, name, saved.read(adapters.entry, place), groups))
