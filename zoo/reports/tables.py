"""Tables of a page: facts, one to a line, and figures in rows and columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zoo.reports.markup import Markup, element
from zoo.reports.numbers import Interval, number


def facts(values: Mapping[str, Any]) -> Markup:
    """Return a table of a name and a value to a line; a value of None is left out."""
    rows = [
        element("tr", element("th", name, scope="row"), element("td", cell(value)))
        for name, value in values.items()
        if value is not None
    ]
    return element("table", element("tbody", *rows), class_="facts")


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, caption: str | None = None) -> Markup:
    """Return a table, which scrolls where a window is narrower.

    Args:
        columns: the headings.
        rows: a value for each column: a number, an `Interval`, a text, `Markup`, or None for none. Where all that is in
            a column is a number or an interval, it stands to the right.
        caption: what stands above the table.
    """
    right = [
        all(isinstance(row[at], int | float | Interval) for row in rows if row[at] is not None) and bool(rows)
        for at in range(len(columns))
    ]
    sides = ["number" if one else None for one in right]
    head = [element("th", name, scope="col", class_=side) for name, side in zip(columns, sides, strict=True)]
    body = [
        element("tr", *(element("td", cell(value), class_=side) for value, side in zip(row, sides, strict=True)))
        for row in rows
    ]
    above = None if caption is None else element("caption", caption)
    inner = element("table", above, element("thead", element("tr", *head)), element("tbody", *body))
    return element("div", inner, class_="scroll")


def cell(value: Any) -> Markup | str:
    """Return a value as a cell of a table shows it: of an interval the ends are smaller; None is a dash."""
    if value is None:
        return "–"
    if isinstance(value, Interval):
        ends = f"{number(value.low)} … {number(value.high)}"
        share = f"{100 * value.level:.3g} % interval"
        return element("span", number(value.value), " ", element("small", ends, title=share))
    if isinstance(value, bool | int | float):
        return number(value)
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {cell(one)}" for name, one in value.items()) or "none"
    if isinstance(value, Sequence):
        return ", ".join(str(cell(one)) for one in value) or "none"
    return str(value)
