"""Where the names of points stand in a chart, so that they hide neither each other nor the points."""

from __future__ import annotations

from collections.abc import Sequence

Box = tuple[float, float, float, float]  # left, top, right, bottom
_SIGN, _LINE, _APART = 6.2, 13.0, 8.0  # pixels: a character's width, a line's height, from a point to its name
_DOT = 6.0
# Beside, above and below the point, and then at its corners: how far to the right and down, best first.
_SIDES = ((1, 0), (-1, 0), (0, -1.1), (0, 1.1), (1, -1), (1, 1), (-1, -1), (-1, 1), (0, -2.2), (0, 2.2))


def placed(spots: Sequence[tuple[str, float, float]], area: Box) -> list[tuple[str, float, float, str]]:
    """Return (name, x, y of the baseline, anchor) of each point's name.

    Each stands beside its point, above, below or at a corner of it, where it hides least.

    Args:
        spots: (name, x, y) of each point.
        area: in which the names are to be.
    """
    taken = [(x - _DOT, y - _DOT, x + _DOT, y + _DOT) for _, x, y in spots]
    found = []
    for name, x, y in spots:
        if not name:
            continue
        wide = _SIGN * len(name)
        ways = [_way(wide, x + right * _APART, y + down * _LINE, right) for right, down in _SIDES]
        left, top, anchor, box = min(ways, key=lambda way: _hidden(way[3], taken, area))
        taken.append(box)
        found.append((name, left, top, anchor))
    return found


def _way(wide: float, x: float, y: float, right: int) -> tuple[float, float, str, Box]:
    """Return x, baseline, anchor and box of a name whose middle line is at `y`, to the right or left of `x`."""
    left = x if right > 0 else x - wide if right < 0 else x - wide / 2
    anchor = {1: "start", -1: "end", 0: "middle"}[right]
    return x, y + 4, anchor, (left, y - _LINE / 2, left + wide, y + _LINE / 2)


def _hidden(box: Box, taken: Sequence[Box], area: Box) -> float:
    """Return how much of what is there a name would hide, and how much of it would be outside."""
    inside = _common(box, area)
    whole = (box[2] - box[0]) * (box[3] - box[1])
    return sum(_common(box, one) for one in taken) + 10 * (whole - inside)


def _common(one: Box, other: Box) -> float:
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, wide) * max(0.0, high)
