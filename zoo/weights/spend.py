"""Spend an average of stored bits: which form each weight gets, so that quantizing costs least at a size.

A weight can be stored in several forms, each of so many bytes and at so much cost. All weights begin in their smallest
form; then whatever saves most cost for each byte is taken, as long as it fits. Of the forms of one weight only those on
the lower convex hull of (bytes, cost) are considered, so that the savings for a byte fall from step to step. The result
is within the saving of a single step of the best one, because the same steps, the last one taken in part, are the best
of the relaxed problem (G. Dantzig, "Discrete-variable extremum problems", Operations Research 5, 1957).

What a form costs is the caller's: from data the Fisher information, see `zoo.weights.fisher`, without them the relative
squared error of the form, the same for weights of all sizes. What quantizing a weight costs a model depends little on
its size, see `zoo.weights.mixed`, and so without data the smallest weights are first.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Form(NamedTuple):
    """One way to store a weight.

    Attributes:
        bytes: What it takes, scales included.
        cost: What it costs the model, in any unit that is the same for all weights.
    """

    bytes: int
    cost: float


def hull(forms: Sequence[Form]) -> list[int]:
    """Return the positions of the forms that are worth their bytes, from the smallest on.

    The smallest is among them always. Each one after it costs less than the one before, and saves less for a byte than
    the step before.
    """
    kept: list[int] = []
    for place in sorted(range(len(forms)), key=lambda place: (*forms[place], place)):
        if kept and forms[place].cost >= forms[kept[-1]].cost:
            continue
        while len(kept) > 1 and _saving(forms, kept[-2], kept[-1]) <= _saving(forms, kept[-1], place):
            kept.pop()
        kept.append(place)
    return kept


def _saving(forms: Sequence[Form], first: int, second: int) -> float:
    """Return the cost that is saved for each byte more."""
    return (forms[first].cost - forms[second].cost) / (forms[second].bytes - forms[first].bytes)


def least(choices: Mapping[str, Sequence[Form]]) -> int:
    """Return the bytes of all weights in their smallest forms."""
    return sum(min(form.bytes for form in forms) for forms in choices.values())


def spend(choices: Mapping[str, Sequence[Form]], budget: int) -> dict[str, int]:
    """Return the position of the form that each weight gets.

    Between steps that save alike, the weight that comes first in `choices` is served first.

    Args:
        choices: The forms of each weight, one at least.
        budget: The bytes that all weights may take; where it is below `least`, all get their smallest forms.
    """
    steps = {name: hull(forms) for name, forms in choices.items()}
    chosen = {name: places[0] for name, places in steps.items()}
    left = budget - least(choices)
    waiting: list[tuple[float, int, str, int]] = []

    def offer(order: int, name: str, number: int) -> None:
        places = steps[name]
        if number < len(places):
            saving = _saving(choices[name], places[number - 1], places[number])
            heapq.heappush(waiting, (-saving, order, name, number))

    for order, name in enumerate(choices):
        offer(order, name, 1)
    while waiting:
        _, order, name, number = heapq.heappop(waiting)
        before, after = steps[name][number - 1 : number + 1]
        more = choices[name][after].bytes - choices[name][before].bytes
        if more <= left:
            left -= more
            chosen[name] = after
            offer(order, name, number + 1)
    return chosen
