"""`zoo.list`: the names of the models in the registries."""

from __future__ import annotations

import builtins
from fnmatch import fnmatchcase

from zoo.catalog import registry
from zoo.catalog.entry import Entry
from zoo.errors import UnknownNameError, did_you_mean


def list(pattern: str | None = None, *, plugin: str | None = None) -> builtins.list[str]:
    """Return the names that `zoo.load` takes, sorted.

    Args:
        pattern: only those that match it, as file names do: `*` any characters, `?` one, `[ab]` one of these; case
            does not count. Default all.
        plugin: only those of this architecture.

    Raises:
        UnknownNameError: nothing matches.
    """
    return [entry.name for entry in matching(pattern, plugin)]


def matching(pattern: str | None = None, plugin: str | None = None) -> tuple[Entry, ...]:
    """Return the entries of these names; see `zoo.list`.

    Raises:
        UnknownNameError: nothing matches.
    """
    from zoo.catalog import discovery

    every = found = registry.entries()
    if plugin is not None:
        known = sorted({str(entry.plugin) for entry in found} | set(discovery.claims()))
        if plugin not in known:
            raise UnknownNameError(f"no plugin {plugin!r}; there are {', '.join(known)}.{did_you_mean(plugin, known)}")
        found = tuple(entry for entry in found if entry.plugin == plugin)
    if pattern is None:
        return found
    lower = pattern.lower()
    found = tuple(entry for entry in found if fnmatchcase(entry.name.lower(), lower))
    if not found:
        near = did_you_mean(pattern.strip("*?"), [entry.name for entry in every])
        raise UnknownNameError(f"no model's name matches {pattern!r}.{near} `zoo list` shows all")
    return found
