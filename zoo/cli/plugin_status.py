"""What is installed, and whether it works: the facts behind `zoo plugins`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from zoo.catalog import discovery, registry
from zoo.errors import ZooError
from zoo.plugin import hooks
from zoo.plugin.static_scan import declared

if TYPE_CHECKING:
    from zoo.testing.promise import Result

Level = Literal["none", "quick", "full"]
Progress = Callable[[str, str, int, int], None]  # plugin, what is checked, its number from 0, of how many


@dataclass(frozen=True)
class Health:
    """One plugin's state.

    state: "ok", "broken", or "not checked" (nothing was imported). reasons: why it is broken, one line each.
    kind: "architecture", "quantizer", "adapter kind" or "observer"; hooks: those it implements. Both come from its
    source where nothing was imported, and are empty where that does not say. checks: what the conformance suite found.
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


def plugins(level: Level = "none", names: Sequence[str] = (), progress: Progress | None = None) -> tuple[Health, ...]:
    """The state of every installed plugin, by name; of `names` alone, where there are some.

    level "quick" imports each one and looks at its hooks; "full" runs `zoo.testing`'s suite on it, in a process of
    its own. Raises UnknownNameError for a name that is not installed.
    """
    claims = discovery.claims()
    absent = set(discovery.restriction() or ()) - set(claims)
    for name in set(names) - set(claims) - absent:
        discovery.claim(name)  # raises, and says why
    chosen = sorted(set(names) or {*claims, *absent})
    return tuple(_state(claims[name], level, progress) if name in claims else _absent(name) for name in chosen)


def faults() -> tuple[str, ...]:
    """Faults outside of plugins' code: metadata that cannot be read, registries with errors."""
    return (*discovery.unreadable(), *registry.problems())


def _absent(name: str) -> Health:
    reason = f"ZOO_PLUGINS names {name!r}, which is not installed"
    return Health(name, "?", "?", "", "broken", reasons=(reason,))


def _state(claims: tuple[discovery.Claim, ...], level: Level, progress: Progress | None) -> Health:
    name, value = claims[0].name, claims[0].value
    distribution = ", ".join(claim.distribution for claim in claims)
    version = ", ".join(claim.version for claim in claims)

    def health(state: str, kind: str = "", hooks: tuple[str, ...] = (), reasons: tuple[str, ...] = ()) -> Health:
        return Health(name, distribution, version, value, state, kind, hooks, reasons)

    try:
        claim = discovery.claim(name)
    except ZooError as error:
        return health("broken", reasons=(str(error),))
    said = declared(claim)
    names = tuple(hook for hook in hooks.HOOKS if hook in said.hooks)
    kind = kind_of(names, bool(names) and said.wrappers == len(said.hooks)) if names else ""
    if level == "none":
        return health("not checked", kind, names)
    if level == "quick":
        try:
            names = hooks.implemented(name)
            return health("ok", kind_of(names, hooks.observes(name)), names)
        except ZooError as error:
            return health("broken", kind, names, reasons=(str(error),))
    from zoo.testing import isolated

    def told(hook: str, promise: str, number: int, total: int) -> None:
        if progress is not None:
            progress(name, f"{hook}: {promise}", number, total)

    found = isolated.examine(name, told)
    broken = tuple(check.reason for check in found.results if check.ok is False)
    if found.hooks is not None:
        names, kind = found.hooks, kind_of(found.hooks, found.observes)
    return replace(health("broken" if broken else "ok", kind, names, reasons=broken), checks=found.results)


def kind_of(hooks: tuple[str, ...], observes: bool) -> str:
    """What a plugin is, by its hooks, and whether it only wraps them."""
    if observes:
        return "observer"
    if "construct" in hooks:
        return "architecture"
    if "quantize" in hooks:
        return "quantizer"
    return "adapter kind" if "inject_adapter" in hooks else "architecture"
