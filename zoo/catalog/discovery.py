"""Find installed plugins in the metadata of distributions, without importing any plugin.

A distribution offers a plugin by an entry point in the group `zoo`. The entry point's name is the name of the
architecture, quantizer (`zoo.Quantization(scheme=...)`) or adapter kind that the plugin implements::

    [project.entry-points.zoo]
    ddpm = "zoo_ddpm"
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.machinery import PathFinder
from importlib.metadata import Distribution, EntryPoint, distributions, entry_points
from importlib.util import find_spec
from pathlib import Path

from zoo.errors import PluginError, UnknownNameError, did_you_mean
from zoo.weights.scheme import BUILTIN_SCHEMES

GROUP = "zoo"
# Schemes and adapter kinds of zoo itself: a plugin of such a name would change the meaning of "nf4" for every model.
RESERVED = frozenset({*BUILTIN_SCHEMES, "lora", "prune", "quantize_aware"})


@dataclass(frozen=True)
class Claim:
    """An entry point by which a distribution offers the plugin `name`.

    Attributes:
        name: the plugin's name.
        value: the entry point's `module[:attribute]`.
        distribution: the distribution's name.
        version: its version.
    """

    name: str
    value: str
    distribution: str
    version: str

    @property
    def package(self) -> str:
        """The top-level package that the entry point is in."""
        return self.value.partition(":")[0].partition("[")[0].split(".")[0].strip()

    def entry_point(self) -> EntryPoint:
        """Return the entry point, to load it."""
        return EntryPoint(self.name, self.value, GROUP)


def claims() -> dict[str, tuple[Claim, ...]]:
    """Return plugin name → its claims, sorted by name. `ZOO_PLUGINS=a,b` restricts the result to these."""
    allowed = restriction()
    return {name: found for name, found in _all_claims().items() if allowed is None or name in allowed}


def claim(name: str) -> Claim:
    """Return the only claim to `name`.

    Raises:
        UnknownNameError: no installed distribution offers it, or `ZOO_PLUGINS` excludes it.
        PluginError: two distributions claim it, or zoo reserves the name.
    """
    found = claims().get(name)
    if found is None:
        if name in _all_claims():
            only = os.environ.get("ZOO_PLUGINS")
            raise UnknownNameError(f"plugin {name!r} is installed, but ZOO_PLUGINS={only} leaves it out: add it there")
        known = list(claims())
        raise UnknownNameError(
            f"no plugin {name!r} is installed; there {'are' if len(known) != 1 else 'is'} "
            f"{', '.join(known) or 'none'}.{did_you_mean(name, known)}"
        )
    reason = conflict(found)
    if reason:
        raise PluginError(reason, plugin=name)
    return found[0]


def conflict(found: tuple[Claim, ...]) -> str | None:
    """Return why the claims to one name cannot be used, or None if they can."""
    name = found[0].name
    if name in RESERVED:
        return (
            f"plugin name {name!r}, claimed by {found[0].distribution}, is one of zoo's own: the plugin needs another"
        )
    if len(found) == 1:
        return None
    by = " and ".join(f"{one.distribution} {one.version} ({one.value})" for one in found)
    together = len({one.value for one in found}) == 1
    hint = (
        "a bundle and a stand-alone copy of one plugin: uninstall the stand-alone one, then reinstall the bundle, "
        "because they share files"
        if together
        else f"uninstall one of them: pip uninstall {found[-1].distribution}"
    )
    return f"plugin {name!r} is claimed by {by}; {hint}"


def package_folder(name: str) -> Path | None:
    """Return the folder of a top-level package without importing it; None if there is none."""
    try:
        spec = find_spec(name) if name.isidentifier() else None
    except (ImportError, ValueError, AttributeError):
        spec = PathFinder.find_spec(name)
    locations = spec.submodule_search_locations if spec else None
    return next((Path(location) for location in locations or ()), None)


def strict() -> bool:
    """Return whether `ZOO_STRICT` is set: exceptions are then raised as they are, not as one-line errors."""
    return os.environ.get("ZOO_STRICT", "") not in ("", "0")


def restriction() -> tuple[str, ...] | None:
    """Return the names in `ZOO_PLUGINS`, or None if it is not set or empty."""
    return _names("ZOO_PLUGINS") or None


def observers() -> tuple[str, ...]:
    """Return the names in `ZOO_OBSERVE`: installed observers that see every hook call."""
    return _names("ZOO_OBSERVE")


def _names(variable: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in os.environ.get(variable, "").split(",") if name.strip())


def unreadable() -> tuple[str, ...]:
    """Return the distributions whose entry points could not be read, each with the reason."""
    _all_claims()
    return _scan()[1]


def forget() -> None:
    """Read the metadata again at the next call, after something was installed or `sys.path` changed."""
    _scan.cache_clear()


def _all_claims() -> dict[str, tuple[Claim, ...]]:
    return _scan()[0]


@cache
def _scan() -> tuple[dict[str, tuple[Claim, ...]], tuple[str, ...]]:
    found: dict[str, dict[tuple[str, str], Claim]] = {}
    problems: list[str] = []
    identities: dict[Distribution | None, tuple[str, str]] = {}  # slow to parse, and shared by many points
    for point in _points(problems):
        if point.dist not in identities:
            identities[point.dist] = _identity(point.dist)
        new = Claim(point.name, point.value, *identities[point.dist])
        found.setdefault(point.name, {}).setdefault((new.distribution, new.value), new)
    ordered = {
        name: tuple(sorted(found[name].values(), key=lambda one: (one.distribution, one.value)))
        for name in sorted(found)
    }
    return ordered, tuple(problems)


def _points(problems: list[str]) -> Iterator[EntryPoint]:
    try:
        yield from entry_points(group=GROUP)
    except Exception:  # one distribution with a damaged entry_points.txt fails the whole scan: take them one by one
        seen: set[str] = set()
        for distribution in distributions():
            name, version = _identity(distribution)
            try:
                points = [point for point in distribution.entry_points if point.group == GROUP]
            except Exception as error:
                problems.append(f"{name} {version}: entry_points.txt cannot be read ({error})")
                continue
            if name.lower() not in seen:
                yield from points
            seen.add(name.lower())


def _identity(distribution: Distribution | None) -> tuple[str, str]:
    try:
        assert distribution is not None
        metadata = distribution.metadata
        return str(metadata["Name"] or "?"), str(metadata["Version"] or "?")
    except Exception:
        return "?", "?"
