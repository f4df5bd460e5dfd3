"""The installed plugins and their health: the facts behind `zoo plugins`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from zoo.catalog import discovery, registry
from zoo.errors import ZooError
from zoo.plugin import child, hooks, stamps
from zoo.plugin.child import Seen

if TYPE_CHECKING:
    from zoo.testing.promise import Result

Level = Literal["none", "quick", "full"]
Progress = Callable[[str, str, int, int], None]  # plugin, what is checked, its number from 0, of how many


@dataclass(frozen=True)
class Health:
    """One plugin's state.

    Attributes:
        name: the plugin's; distribution, version, entry_point: what brings it.
        state: "ok", "broken", or "not checked".
        kind: "architecture", "quantizer", "adapter kind" or "observer"; empty if that is not known.
        hooks: those it implements; empty if they are not known. Of a plugin that is not checked, kind and hooks are
            known if it can be imported without anything heavy.
        reasons: why it is broken, one line each.
        checks: what the conformance suite found.
    """

    name: str
    distribution: str
    version: str
    entry_point: str
    state: str
    kind: str = ""
    hooks: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    checks: tuple[Result, ...] = ()


def plugins(
    level: Level = "none", names: Sequence[str] = (), progress: Progress | None = None, device: str = "cpu"
) -> tuple[Health, ...]:
    """Return the state of every installed plugin, by name; of `names` alone if there are some.

    Args:
        level: "none" imports plugins in another process, and only what is light there; "quick" imports all of each
            there and asks whether it recognises nonsense; "full" runs `zoo.testing`'s suite on each, in a process of
            its own.
        names: plugins. None: all.
        progress: is called with each check that starts.
        device: on which the suite has its models; see `zoo.testing.Options`.

    Raises:
        UnknownNameError: a name is not installed.
    """
    claims = discovery.claims()
    absent = set(discovery.restriction() or ()) - set(claims)
    for name in set(names) - set(claims) - absent:
        discovery.claim(name)  # raises, and says why
    chosen = sorted(set(names) or {*claims, *absent})
    installed = [name for name in chosen if name in claims]
    known: dict[str, Seen] = {}
    if level == "none":
        known = child.look(installed, light=True)
    elif level == "quick":
        known = stamps.look_again(installed)
    return tuple(
        _state(claims[name], level, progress, known.get(name), device) if name in claims else _absent(name)
        for name in chosen
    )


def faults() -> tuple[str, ...]:
    """Return the faults outside of plugins' code: metadata that cannot be read, registries with errors."""
    return (*discovery.unreadable(), *registry.problems())


def _absent(name: str) -> Health:
    reason = f"ZOO_PLUGINS names {name!r}, which is not installed"
    return Health(name, "?", "?", "", "broken", reasons=(reason,))


def _state(
    claims: tuple[discovery.Claim, ...], level: Level, progress: Progress | None, seen: Seen | None, device: str
) -> Health:
    name, value = claims[0].name, claims[0].value
    distribution = ", ".join(claim.distribution for claim in claims)
    version = ", ".join(claim.version for claim in claims)

    def health(state: str, kind: str = "", hooks: tuple[str, ...] = (), reasons: tuple[str, ...] = ()) -> Health:
        return Health(name, distribution, version, value, state, kind, hooks, reasons)

    try:
        discovery.claim(name)
        if level == "none":
            names, observes = (seen.hooks, seen.observes) if seen else ((), False)
            return health("not checked", kind_of(names, observes) if names else "", names)
        if level == "quick" and seen is not None:
            kind = kind_of(seen.hooks, seen.observes) if seen.hooks else ""
            reasons = (seen.reason if seen.refused else f"plugin {name!r}: {seen.reason}",) if seen.reason else ()
            return health("broken" if reasons else "ok", kind, seen.hooks, reasons)
        if level == "quick":  # no other process can be started
            names = hooks.implemented(name)
            return health("ok", kind_of(names, hooks.observes(name)), names)
    except ZooError as error:
        return health("broken", reasons=(str(error),))
    from zoo.testing import isolated

    def started(hook: str, promise: str, number: int, total: int) -> None:
        if progress is not None:
            progress(name, f"{hook}: {promise}", number, total)

    found = isolated.examine(name, started, device)
    broken = tuple(check.reason for check in found.results if check.ok is False)
    names, kind = found.hooks or (), kind_of(found.hooks, found.observes) if found.hooks else ""
    return replace(health("broken" if broken else "ok", kind, names, reasons=broken), checks=found.results)


def kind_of(hooks: tuple[str, ...], observes: bool) -> str:
    """Return what a plugin is, by its hooks and whether it only wraps them."""
    if observes:
        return "observer"
    if "construct" in hooks:
        return "architecture"
    if "quantize" in hooks:
        return "quantizer"
    return "adapter kind" if "inject_adapter" in hooks else "architecture"
