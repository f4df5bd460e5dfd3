"""A finished run that is given a larger budget goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from zoo.errors import TuningError
from zoo.tuning.checkpoint import Checkpoint


class Extension(NamedTuple):
    """What a run goes on from.

    Attributes:
        last: the checkpoint, whose budget is that of now; None for a run that begins.
        before: the budgets that the run had before.
        said: what the run does that it did not before, in words; "" for nothing.
    """

    last: Checkpoint | None
    before: tuple[float, ...]
    said: str = ""


def extension(last: Checkpoint | None, budgets: Mapping[str, float | None]) -> Extension:
    """Return what a run goes on from that may have been given a larger budget.

    Args:
        last: its checkpoint, or None.
        budgets: "steps" and "minutes", one of which is not None.

    Raises:
        TuningError: the run has not used up its own budget, so that another would change the rates of steps to come.
    """
    if last is None:
        return Extension(None, ())
    name, now = next(((name, value) for name, value in budgets.items() if value is not None), ("steps", 0.0))
    then, known = last.settings.get(name), last.settings.get("extended") or ()
    if not isinstance(then, int | float) or not now > then:
        return Extension(last, tuple(known))
    done = last.step if name == "steps" else last.seconds / 60
    if done < then:
        raise TuningError(
            f"the run has done {done:.4g} of its {then:g} {name}, and {now:g} would change the learning rate of those "
            f"to come: finish it with {name}={then:g}, and extend it then"
        )
    before = (*known, then)
    said = f"going on from {then:g} to {now:g} {name}, from here with the learning rate of a run of {now:g} {name}"
    settings = {**last.settings, name: now, "extended": list(before)}
    return Extension(replace(last, settings=settings), before, said)
