"""From a saved adapter to the entry of its base."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from zoo.adapters.manifest import base_of
from zoo.errors import AdapterError
from zoo.registry import Entry, find, is_name, resolve, unnamed


def entry_of(adapter: Path, weights: str | None, revision: str | None, *, trusted: bool) -> Entry:
    """The entry of the base that a saved adapter names, at the commit that it was trained on.

    weights, revision: the user's own word, which goes before the adapter's.
    """
    base = base_of(adapter, trusted=trusted)
    local = trusted or weights is not None
    if weights is None:
        weights, revision = base.weights, base.revision
    if not is_name(base.name):
        entry = unnamed(weights or base.name, None, revision, local=local, base=True)
    else:
        known = find(base.name)
        if weights in (None, known.weights) and revision in (None, known.revision):
            weights = revision = None
        entry = resolve(base.name, weights, revision, local=local)
    if base.plugin is not None and base.plugin != entry.plugin:
        raise AdapterError(
            f"{adapter}: made for the architecture {base.plugin!r}, and its base {base.name!r} is of {entry.plugin!r}; "
            "load the base that it was made for and give lora="
        )
    return replace(entry, adapter=adapter)
