"""Charts as SVG: curves over steps, and points of two figures. Their colours follow the page's, light or dark."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from zoo.reports.axes import Axis, axis
from zoo.reports.labels import placed
from zoo.reports.markup import Markup, element
from zoo.reports.numbers import number

COLOURS = 8  # that the page's style names
_WIDTH, _HEIGHT = 560, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 74, 16, 14, 44
_MOST = 600  # points of a curve; of more, the lowest and highest of each stretch are drawn
_DOTS = 40  # a curve of no more points shows them


@dataclass(frozen=True)
class Series:
    """A curve.

    Attributes:
        name: what the legend calls it.
        x: values along the horizontal axis, rising.
        y: a value for each; what is not finite is a gap.
        low: the lower ends of their intervals, if they have some.
        high: the upper ends.
        faint: whether it is only the background of another one, such as single losses behind their mean.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    faint: bool = False


@dataclass(frozen=True)
class Point:
    """A point.

    Attributes:
        name: what stands beside it.
        x: the horizontal value.
        y: the vertical value.
        group: what it is one of: points of one group have one colour and are in the legend.
        x_interval: the ends of the interval of `x`.
        y_interval: the ends of the interval of `y`.
    """

    name: str
    x: float
    y: float
    group: str = ""
    x_interval: tuple[float, float] | None = None
    y_interval: tuple[float, float] | None = None


def curves(
    series: Sequence[Series], *, x: str, y: str, log_y: bool = False, marks: Mapping[float, str] | None = None
) -> Markup:
    """Return curves with their axes and legend.

    Args:
        series: the curves. A faint one has the colour of the one after it, and is not in the legend.
        x: what the horizontal axis is.
        y: what the vertical axis is, with its unit.
        log_y: whether the vertical axis is logarithmic; what is not above 0 is then a gap.
        marks: horizontal value → what happened there, at a dashed line.
    """
    kept = [(one, _points(one, log_y)) for one in series]
    across = [place for _, found in kept for place, *_ in found]
    spans = [value for _, found in kept for _, *values in found for value in values]
    if not across:
        return element("p", "There are no values to draw.", class_="none")
    horizontal, vertical = axis(across, tight=True), axis(spans, log=log_y)
    parts, colours = [*_frame(horizontal, vertical, x, y)], _colours([one.faint for one in series])
    for place, label in (marks or {}).items():
        if horizontal.low <= place <= horizontal.high:
            parts.append(_mark(_across(horizontal, place), label))
    for (one, found), colour in zip(kept, colours, strict=True):
        parts += _curve(one, found, horizontal, vertical, colour)
    legend = [(one.name, colour) for one, colour in zip(series, colours, strict=True) if not one.faint]
    return _chart(parts, f"{y} over {x}", legend if len(legend) > 1 else [])


def points(
    found: Sequence[Point], *, x: str, y: str, log_x: bool = False, log_y: bool = False, joined: bool = False
) -> Markup:
    """Return points with their names, intervals, axes and legend.

    Args:
        found: the points; one that is not finite, or not above 0 on a logarithmic axis, is left out.
        x: what the horizontal axis is, with its unit.
        y: what the vertical axis is, with its unit.
        log_x: whether the horizontal axis is logarithmic.
        log_y: whether the vertical axis is.
        joined: whether the points of a group are joined by a line, in the order of `x`.
    """
    shown = [one for one in found if _drawable(one.x, log_x) and _drawable(one.y, log_y)]
    if not shown:
        return element("p", "There are no values to draw.", class_="none")
    horizontal = axis([value for one in shown for value in _ends(one.x, one.x_interval, log_x)], log=log_x)
    vertical = axis([value for one in shown for value in _ends(one.y, one.y_interval, log_y)], log=log_y)
    groups = list(dict.fromkeys(one.group for one in shown))
    parts = [*_frame(horizontal, vertical, x, y)]
    for index, group in enumerate(groups if joined else ()):
        line = sorted((one.x, one.y) for one in shown if one.group == group)
        places = " ".join(f"{_across(horizontal, a):.1f},{_down(vertical, b):.1f}" for a, b in line)
        parts.append(element("polyline", points=places, class_=f"curve faint c{index % COLOURS}"))
    spots = []
    for one in shown:
        left, top = _across(horizontal, one.x), _down(vertical, one.y)
        colour = f"c{groups.index(one.group) % COLOURS}"
        if one.x_interval is not None:
            low, high = (_across(horizontal, end) for end in _ends(one.x, one.x_interval, log_x)[1:])
            parts.append(_whisker(low, high, top, top, colour))
        if one.y_interval is not None:
            low, high = (_down(vertical, end) for end in _ends(one.y, one.y_interval, log_y)[1:])
            parts.append(_whisker(left, left, low, high, colour))
        said = f"{one.name}: {x} {number(one.x)}, {y} {number(one.y)}"
        parts.append(_dot(left, top, 5, colour, said))
        spots.append((one.name, left, top))
    area = (_LEFT, _TOP, _WIDTH - _RIGHT, _HEIGHT - _BOTTOM)
    for name, left, top, anchor in placed(spots, area):
        parts.append(element("text", name, x=f"{left:.1f}", y=f"{top:.1f}", text_anchor=anchor, class_="label"))
    legend = [(group, index % COLOURS) for index, group in enumerate(groups)]
    return _chart(parts, f"{y} and {x}", legend if len(legend) > 1 else [])


def smooth(values: Sequence[float], share: float = 0.02) -> list[float]:
    """Return a running mean of `values` over about that share of them, without a lag at the start."""
    keep = 1 - 1 / max(1.0, share * len(values))
    total = weight = 0.0
    found = []
    for value in values:
        if math.isfinite(value):
            total, weight = keep * total + value, keep * weight + 1
        found.append(total / weight if weight else math.nan)
    return found


def _points(one: Series, log: bool) -> list[tuple[float, ...]]:
    """Return (x, y) or (x, y, low, high) of what can be drawn, no more of them than `_MOST`."""
    found: list[tuple[float, ...]] = []
    for index, (place, value) in enumerate(zip(one.x, one.y, strict=True)):
        if not _drawable(value, log) or not math.isfinite(place):
            continue
        if one.low is None or one.high is None:
            found.append((place, value))
        else:
            found.append((place, *_ends(value, (one.low[index], one.high[index]), log)))
    if len(found) <= _MOST:
        return found
    ends = [round(index * len(found) / (_MOST // 2)) for index in range(_MOST // 2 + 1)]
    few: list[tuple[float, ...]] = []
    for start, end in pairwise(ends):
        stretch = found[start:end]
        few += sorted({min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])})
    return few


def _curve(
    one: Series, found: Sequence[tuple[float, ...]], horizontal: Axis, vertical: Axis, colour: int
) -> Iterator[Markup]:
    places = [(_across(horizontal, point[0]), _down(vertical, point[1])) for point in found]
    if one.low is not None and found:
        upper = [(_across(horizontal, point[0]), _down(vertical, point[3])) for point in found]
        lower = [(_across(horizontal, point[0]), _down(vertical, point[2])) for point in found]
        outline = " L".join(f"{left:.1f} {top:.1f}" for left, top in [*upper, *reversed(lower)])
        yield element("path", d=f"M{outline} Z", class_=f"band c{colour}")
    if len(places) > 1:
        line = " ".join(f"{left:.1f},{top:.1f}" for left, top in places)
        yield element("polyline", points=line, class_=f"curve c{colour}{' faint' if one.faint else ''}")
    if len(places) <= _DOTS and not one.faint:
        for (left, top), point in zip(places, found, strict=True):
            yield _dot(left, top, 3, f"c{colour}", f"{one.name}: {number(point[1])} at {number(point[0])}")


def _frame(horizontal: Axis, vertical: Axis, x: str, y: str) -> Iterator[Markup]:
    """Yield the grid, the ticks and the axes' names."""
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    for tick in vertical.ticks:
        top = _down(vertical, tick)
        yield element("line", x1=_LEFT, x2=right, y1=f"{top:.1f}", y2=f"{top:.1f}", class_="grid")
        yield element("text", vertical.label(tick), x=_LEFT - 8, y=f"{top + 4:.1f}", text_anchor="end", class_="tick")
    for tick in horizontal.ticks:
        left = _across(horizontal, tick)
        yield element("line", x1=f"{left:.1f}", x2=f"{left:.1f}", y1=bottom, y2=bottom + 4, class_="axis")
        anchor = "end" if left > right - 12 else "middle"
        yield element("text", horizontal.label(tick), x=f"{left:.1f}", y=bottom + 17, text_anchor=anchor, class_="tick")
    yield element("line", x1=_LEFT, x2=right, y1=bottom, y2=bottom, class_="axis")
    yield element("text", x, x=(_LEFT + right) / 2, y=_HEIGHT - 8, text_anchor="middle", class_="name")
    middle = (_TOP + bottom) / 2
    yield element("text", y, x=14, y=middle, text_anchor="middle", transform=f"rotate(-90 14 {middle})", class_="name")


def _mark(left: float, label: str) -> Markup:
    line = element("line", x1=f"{left:.1f}", x2=f"{left:.1f}", y1=_TOP, y2=_HEIGHT - _BOTTOM, class_="mark")
    anchor, by = ("end", -4) if left > _WIDTH / 2 else ("start", 4)
    said = element("text", label, x=f"{left + by:.1f}", y=_TOP + 10, text_anchor=anchor, class_="tick")
    return element("g", line, said)


def _dot(left: float, top: float, radius: int, colour: str, said: str) -> Markup:
    circle = element("circle", cx=f"{left:.1f}", cy=f"{top:.1f}", r=radius)
    return element("g", element("title", said), circle, class_=f"dot {colour}")


def _whisker(x1: float, x2: float, y1: float, y2: float, colour: str) -> Markup:
    ends = {name: f"{value:.1f}" for name, value in {"x1": x1, "x2": x2, "y1": y1, "y2": y2}.items()}
    return element("line", class_=f"whisker {colour}", **ends)


def _chart(parts: Sequence[Markup], said: str, legend: Sequence[tuple[str, int]]) -> Markup:
    drawn = element("svg", *parts, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", aria_label=said)
    names = [element("span", element("i", class_=f"c{colour}"), name) for name, colour in legend]
    return element("figure", drawn, element("figcaption", *names, class_="legend") if names else None, class_="chart")


def _colours(faint: Sequence[bool]) -> list[int]:
    """Return the number of the colour of each curve; a faint one has that of the next one that is not."""
    found, colour = [], 0
    for one in faint:
        found.append(colour % COLOURS)
        colour += 0 if one else 1
    return found


def _ends(value: float, interval: tuple[float, float] | None, log: bool) -> tuple[float, ...]:
    """Return a value and the ends of its interval; an end that cannot be drawn is the value."""
    return (value, *(end if _drawable(end, log) else value for end in interval or ()))


def _drawable(value: float, log: bool) -> bool:
    return math.isfinite(value) and (value > 0 or not log)


def _across(horizontal: Axis, value: float) -> float:
    return _LEFT + horizontal.place(value) * (_WIDTH - _LEFT - _RIGHT)


def _down(vertical: Axis, value: float) -> float:
    return _HEIGHT - _BOTTOM - vertical.place(value) * (_HEIGHT - _TOP - _BOTTOM)
