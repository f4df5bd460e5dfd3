"""What is installed, and whether it works: the facts behind ``zoo plugins``."""

from __future__ import annotations

from dataclasses import dataclass

from zoo import discovery, host, registry
from zoo.errors import ZooError


@dataclass(frozen=True)
class Health:
    """One plugin's state.

    state: "ok", "broken", or "not checked" (metadata only, nothing imported). reason: why it is broken.
    kind: "architecture", "quantizer", "adapter kind" or "observer"; hooks: those it implements. Both need a check.
    """

    name: str
    distribution: str
    version: str
    entry_point: str
    state: str
    kind: str = ""
    hooks: tuple[str, ...] = ()
    reason: str = ""


def plugins(check: bool = False) -> tuple[Health, ...]:
    """The state of every installed plugin, by name; ``check`` imports each of them, in isolation."""
    rows = [_state(claims, check) for claims in discovery.claims().values()]
    missing = set(discovery.restriction() or ()) - {row.name for row in rows}
    rows += [
        Health(name, "?", "?", "", "broken", reason=f"ZOO_PLUGINS names {name!r}, which is not installed")
        for name in missing
    ]
    return tuple(sorted(rows, key=lambda row: row.name))


def faults() -> tuple[str, ...]:
    """Faults outside of plugins' code: metadata that cannot be read, registries with errors."""
    return (*discovery.unreadable(), *registry.problems())


def _state(claims: tuple[discovery.Claim, ...], check: bool) -> Health:
    name, value = claims[0].name, claims[0].value
    distribution = ", ".join(claim.distribution for claim in claims)
    version = ", ".join(claim.version for claim in claims)
    try:
        discovery.claim(name)
        if not check:
            return Health(name, distribution, version, value, "not checked")
        hooks = host.implemented(name)
    except ZooError as error:
        return Health(name, distribution, version, value, "broken", reason=str(error))
    return Health(name, distribution, version, value, "ok", _kind(name, hooks), hooks)


def _kind(name: str, hooks: tuple[str, ...]) -> str:
    if host.observes(name):
        return "observer"
    if "construct" in hooks:
        return "architecture"
    if "quantize" in hooks:
        return "quantizer"
    return "adapter kind" if "inject_adapter" in hooks else "architecture"
