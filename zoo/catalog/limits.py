"""How large the numbers of a model's configuration may be, before anything is built by it. Imports no plugin.

A configuration is a few bytes that can ask for any number of layers. No number in one may be above `ANY`, unless its
key names no size, and some kinds of numbers have lower bounds, by the words that end a key: `layers` is for
`num_hidden_layers` too. A plugin says its own in a file `limits.toml` beside its `__init__.py`, which is read without
importing it, and which counts before those here::

    [most]                      # the largest number under a key, or under keys that end in _key
    layers = 96
    vocab_size = 1_000_000
    [longest]                   # the longest list
    block_out_channels = 8
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from zoo.bounded.toml_text import read_toml
from zoo.catalog import discovery
from zoo.errors import CheckpointError, PluginError

if TYPE_CHECKING:
    from zoo.catalog.entry import Entry

FILE = "limits.toml"
ANY = 100_000_000
# The deepest published networks have about 1,000 layers, the largest heads some ten thousand classes.
MOST: Mapping[str, int] = {
    "layers": 1024,
    "layer": 1024,
    "depth": 1024,
    "depths": 1024,
    "blocks": 1024,
    "per_block": 1024,
    "heads": 65_536,
    "head": 65_536,
    "experts": 65_536,
    "timesteps": 1_000_000,
    "labels": 131_072,
    "classes": 131_072,
}
LONGEST: Mapping[str, int] = dict.fromkeys(("channels", "types", "depths", "layers", "heads", "dims", "blocks"), 1024)
# Numbers under keys that end so are no sizes.
_NO_SIZE = frozenset(
    "theta base seed hash length tokens flos parameters params bytes samples version date timestamp".split()  # noqa: SIM905
)


class Limits(NamedTuple):
    """The bounds of an architecture: by the end of a key, the largest number and the longest list."""

    most: Mapping[str, int]
    longest: Mapping[str, int]


def check_limits(entry: Entry) -> None:
    """Check the numbers of an entry's configuration.

    Raises:
        CheckpointError: one is larger, or a list longer, than the architecture has.
    """
    check_config(entry.config, entry.plugin, entry.name)


def check_config(config: Any, plugin: str | None, where: str) -> None:
    """Check the numbers of a configuration, or of another file beside it.

    Args:
        config: the parsed JSON.
        plugin: the architecture, if known.
        where: how the error begins.

    Raises:
        CheckpointError: one is larger, or a list longer, than the architecture has.
    """
    limits = _limits(plugin)
    for key, value in _items(config):
        if isinstance(value, list):
            most = _bound(key, limits.longest)
            if most is not None and len(value) > most:
                raise CheckpointError(
                    f"{where}: {key} lists {len(value)} in its configuration, more than any such model ({most}): "
                    "mend it, or get the file again"
                )
            continue
        most = _bound(key, limits.most)
        if most is None:
            most = None if _words(key)[-1] in _NO_SIZE else ANY
        if most is not None and abs(value) > most:
            raise CheckpointError(
                f"{where}: {key} is {value} in its configuration, more than any such model has ({most}): mend it, or "
                "get the file again"
            )


def _items(content: Any, key: str = "") -> Iterator[tuple[str, int | list[Any]]]:
    """Yield (key, list or whole number) of everything in a parsed text; a list's parts have the list's key."""
    if isinstance(content, Mapping):
        for name, value in content.items():
            yield from _items(value, str(name))
    elif isinstance(content, list | tuple):
        yield key, list(content)
        for value in content:
            yield from _items(value, key)
    elif type(content) is int:
        yield key, content


def _words(key: str) -> list[str]:
    return key.lower().split("_")


def _bound(key: str, bounds: Mapping[str, int]) -> int | None:
    """Return the bound for a key or for the words at its end, the most of them that are there."""
    words = _words(key)
    ends = ("_".join(words[place:]) for place in range(len(words)))
    return next((bounds[end] for end in ends if end in bounds), None)


@cache
def _limits(plugin: str | None) -> Limits:
    """Return an architecture's bounds, its plugin's before the usual ones.

    Raises:
        PluginError: the plugin's file of them is not valid.
    """
    claims = discovery.claims().get(plugin, ()) if plugin else ()
    folder = discovery.package_folder(claims[0].package) if len(claims) == 1 else None
    path = folder / FILE if folder is not None else None
    own = _read(path) if path is not None and path.is_file() else Limits({}, {})
    return Limits({**MOST, **own.most}, {**LONGEST, **own.longest})


def _read(path: Path) -> Limits:
    tables = read_toml(path, error=PluginError)
    for name, table in tables.items():
        if name not in Limits._fields or not isinstance(table, dict):
            raise PluginError(f"{path}: expected the tables most and longest, got {name}")
        for key, value in table.items():
            if type(value) is not int or value < 1:
                raise PluginError(f"{path}: [{name}] {key}: expected a whole number from 1, got {value!r}")
    return Limits(tables.get("most", {}), tables.get("longest", {}))
