"""How numbers are written in a report."""

from __future__ import annotations

import math
from dataclasses import dataclass

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


@dataclass(frozen=True)
class Interval:
    """A figure and the interval that it lies in.

    Attributes:
        value: the figure.
        low: the interval's lower end.
        high: its upper end.
        level: the share of such intervals that hold what they estimate.
    """

    value: float
    low: float
    high: float
    level: float = 0.95

    def __str__(self) -> str:
        return f"{number(self.value)} [{number(self.low)}, {number(self.high)}]"


def number(value: float, digits: int = 4) -> str:
    """Return a number with so many significant digits: "0.01234", "12,345", "1.2e-07"."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if size < -4 or size >= 15:
        return f"{value:.{digits - 1}e}"
    return f"{value:,.{max(0, digits - 1 - size)}f}"


def byte_size(count: float) -> str:
    """Return a number of bytes: "1.25 MB", of a thousand kB each."""
    unit = 0
    while abs(count) >= 999.5 and unit + 1 < len(_UNITS):
        count, unit = count / 1000, unit + 1
    return f"{count:.0f} B" if unit == 0 else f"{number(float(count), 3)} {_UNITS[unit]}"


def duration(seconds: float) -> str:
    """Return a time: "0.012 s", "12.3 s", "3 min 20 s", "2 h 05 min"."""
    if not math.isfinite(seconds) or seconds < 100:
        return f"{number(float(seconds), 3)} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
