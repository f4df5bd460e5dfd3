"""Settings with which a run would fit a card: the fewest and smallest changes first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zoo.errors import ZooError
from zoo.planning.cards import Card
from zoo.planning.estimate import Change, Plan

WIDTHS = (16, 8, 4)
MOST = 3  # ways that are shown


def changes(made: Plan, card: Card, again: Callable[..., Plan]) -> tuple[Change, ...]:
    """Return settings with which a plan fits a card, each measured as the plan itself was.

    Tried in this order: a smaller batch; activations computed again; weights in fewer bits; an adapter in the place of
    full training; and these together.

    Args:
        made: the plan that does not fit.
        card: the card.
        again: returns the plan of other settings; its peak may be None where it is known that the card cannot hold it.
    """
    known = {_key({"batch_size": made.batch_size}): made}

    def once(**settings: Any) -> Plan:
        key = _key(settings)
        if key not in known:
            known[key] = again(**settings)
        return known[key]

    widths = [width for width in WIDTHS if width < _width(made)] if made.adapter is not None else []
    bases: list[dict[str, Any]] = [{}]
    if not made.checkpointing:
        bases.append({"gradient_checkpointing": True})
    bases += [{"bits": width} for width in widths]
    if made.adapter is None:
        bases += [{"lora": 8}, {"lora": 8, "bits": 4}]
        widths = [4]
    if not made.checkpointing:
        bases += [{**base, "gradient_checkpointing": True} for base in bases if "bits" in base or "lora" in base]
    found: list[Change] = []
    for base in bases:
        change = _with_batch(made, card, once, base)
        if change is not None and not any(_within(one.settings, change.settings) for one in found):
            found.append(change)
        if len(found) == MOST:
            break
    return tuple(found)


def _with_batch(made: Plan, card: Card, again: Callable[..., Plan], base: dict[str, Any]) -> Change | None:
    """Return the largest batch, of those halved again and again, with which other settings fit."""
    try:
        one = again(**base, batch_size=1)
        if one.peak is None or one.peak > card.usable:
            return None
        size = made.batch_size
        whole = one if size == 1 else again(**base, batch_size=size)
        if whole.peak is None:
            return None
        if whole.peak <= card.usable:
            return Change(base, whole.peak) if base else None
        # Bytes grow with the batch along a line, so that one more measurement decides.
        slope = (whole.peak - one.peak) / (size - 1)
        while size > 1 and one.peak + slope * (size - 1) > card.usable:
            size //= 2
        last = again(**base, batch_size=size)
        while size > 1 and last.peak is not None and last.peak > card.usable:
            size //= 2
            last = again(**base, batch_size=size)
        return None if last.peak is None else Change({**base, "batch_size": size}, last.peak)
    except ZooError:
        return None


def _within(known: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether other settings change all that known ones do, and more."""
    return all(name in other and (name == "batch_size" or other[name] == value) for name, value in known.items())


def _key(settings: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(settings.items()))


def _width(made: Plan) -> int:
    if isinstance(made.bits, int):
        return made.bits
    return 4 if made.bits is not None else {"float64": 64, "float32": 32}.get(made.dtype, 16)
