"""Axes of a chart: which range they show, where their ticks are, linear or logarithmic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from zoo.reports.numbers import number

_STEPS = (1, 2, 2.5, 5, 10)
_ROOM = 0.04  # of an axis, beyond the data on both sides


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
        low: the value at its start.
        high: the value at its end.
        log: whether equal distances are equal ratios.
        ticks: the values that are marked.
    """

    low: float
    high: float
    log: bool
    ticks: tuple[float, ...]

    def place(self, value: float) -> float:
        """Return where a value is: 0 at the start, 1 at the end."""
        low, high, value = (_scaled(one, self.log) for one in (self.low, self.high, value))
        return (value - low) / (high - low)

    def label(self, tick: float) -> str:
        """Return what stands beside a tick: no more digits than tell the ticks apart."""
        if tick == 0:
            return "0"
        apart = min((abs(b - a) for a, b in pairwise(self.ticks)), default=abs(tick))
        digits = max(3, math.ceil(math.log10(abs(tick) / apart)) + 2 if abs(tick) > apart else 0)
        if abs(tick) < 1e-3 or abs(tick) >= 1e6:
            return f"{tick:.{digits}g}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
        return number(int(tick)) if tick == int(tick) else f"{tick:,.{digits}g}"


def axis(values: Sequence[float], *, log: bool = False, ticks: int = 5, tight: bool = False) -> Axis:
    """Return the axis on which all of `values` have room.

    Args:
        values: finite; of a logarithmic axis those above 0 count.
        log: whether it is logarithmic; it is not where none of the values is above 0.
        ticks: about how many.
        tight: whether it ends at the outermost values.
    """
    above = [value for value in values if value > 0]
    log = log and bool(above)
    shown = above if log else values
    low, high = (min(shown), max(shown)) if shown else (0.0, 1.0)
    start, end = _scaled(low, log), _scaled(high, log)
    if end - start <= 1e-12 * max(abs(start), abs(end)):  # all the same
        start, end = (start - 0.1, end + 0.1) if log else (start - 0.5 * abs(start or 1), end + 0.5 * abs(end or 1))
    elif not tight:
        start, end = start - _ROOM * (end - start), end + _ROOM * (end - start)
    low, high = (10**start, 10**end) if log else (start, end)
    return Axis(low, high, log, tuple(_log_ticks(low, high) if log else _ticks(low, high, ticks)))


def _ticks(low: float, high: float, count: int) -> list[float]:
    rough = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * one for one in _STEPS if power * one >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Return 1, 10, 100, … with 2 and 5 between them where there are few; else as of a linear axis."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = math.ceil(len(powers) / 7)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        found = [float(f"{one}e{power}") for power in powers[::every] for one in factors]
        found = [tick for tick in found if low * 0.999 <= tick <= high * 1.001]
        if len(found) >= 3:
            return found
    return [tick for tick in _ticks(low, high, 4) if tick > 0]


def _scaled(value: float, log: bool) -> float:
    return math.log10(value) if log else value
