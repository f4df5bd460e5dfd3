"""Tables of several ways' figures, and of how they differ from one of them on the same examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zoo.comparison.quality import Quality
from zoo.metrics import rises
from zoo.reports import Interval, Markup, table

_VERDICTS = {True: "better", False: "worse", None: "no clear difference"}


def qualities(ways: Sequence[Quality]) -> Markup:
    """Return a table with a line for each way, of at least one, and a column for each figure."""
    names = list(dict.fromkeys(name for one in ways for name in one.figures))
    rows = []
    for one in ways:
        row: list[Any] = [one.name]
        for name in names:
            ends, value = one.interval(name), one.figures.get(name)
            row.append(value if ends is None or value is None else Interval(value, *ends))
        rows.append(row)
    found = ways[0].found
    caption = f"n = {found['samples']:,} {found['unit']}; 95 % bootstrap intervals over them"
    heads = [f"{name} {'↑' if rises(name) else '↓'}" for name in names]
    return table(["way", *heads], rows, caption=caption)


def differences(ways: Sequence[Quality], reference: int = 0) -> Markup:
    """Return a table of how each way differs from the one of that number, on the same examples."""
    rows, name = [], ""
    for number, one in enumerate(ways):
        compared = None if number == reference else one.against(ways[reference])
        if compared is None:
            continue
        name, found = compared
        interval = Interval(found.value, found.low, found.high)
        rows.append([one.name, interval, found.wins, found.losses, found.ties, _VERDICTS[found.better]])
    caption = f"{name} minus that of “{ways[reference].name}”, in pairs on the same examples"
    heads = ["way", "difference", "better on", "worse on", "the same on", ""]
    return table(heads, rows, caption=caption) if rows else table(["way"], [])
