"""What an evaluation gives: named figures, of how many examples, and an interval for each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from zoo.errors import ZooError
from zoo.metrics.resampling import LEVEL, SEED, draws, interval
from zoo.metrics.statistics import Statistic

PLAIN = "the plugin gives plain numbers, and an interval needs the values of each example: zoo.metrics.Scores"
ALONE = "one example alone has no interval"


class Figures(dict[str, float]):
    """Metrics by name, the main one first, as a dict of floats that also knows their intervals.

    An interval is the 95 % bootstrap interval over the examples: between the percentiles of the figure in resamples of
    as many examples, drawn with replacement from seed 0. It is computed when it is first asked for.

    Attributes:
        samples: the number of examples of the main figure; 0 where the plugin does not say.
        unit: what an example is, in the plural: "images", "windows of text".
        missing: name → why there is no such figure, or no interval of it.
        notes: name → what else there is to know of a figure, such as the feature space of a distance.
    """

    def __init__(
        self,
        figures: Mapping[str, float] = {},
        *,
        statistics: Mapping[str, Statistic] | None = None,
        samples: int = 0,
        unit: str = "examples",
        missing: Mapping[str, str] | None = None,
        notes: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(figures)
        self.statistics = dict(statistics or {})
        self.samples, self.unit = samples, unit
        self.missing, self.notes = dict(missing or {}), dict(notes or {})
        self._intervals: dict[str, tuple[float, float]] = {}

    @property
    def level(self) -> float:
        """The share of an interval: .95."""
        return LEVEL

    @property
    def seed(self) -> int:
        """What the resamples are drawn from."""
        return SEED

    @property
    def resamples(self) -> dict[str, int]:
        """The number of resamples behind each interval; fewer for what takes long."""
        return {name: one.resamples for name, one in self.statistics.items() if name in self and len(one) > 1}

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """Name → (low, high), of every figure that has an interval."""
        return {name: found for name in self if (found := self.interval(name)) is not None}

    def count(self, name: str) -> int:
        """Return the number of examples of one figure."""
        return len(self.statistics[name]) if name in self.statistics else self.samples

    def interval(self, name: str) -> tuple[float, float] | None:
        """Return the interval of one figure; None where there is none, and `why_not(name)` says why.

        Raises:
            ZooError: there is no such figure.
        """
        if name not in self:
            raise ZooError(f"expected one of {', '.join(self)}, got {name!r}")
        statistic = self.statistics.get(name)
        if name not in self._intervals and statistic is not None and len(statistic) > 1:
            values = [statistic.of(rows) for rows in draws(len(statistic), statistic.resamples)]
            if all(map(math.isfinite, values)):
                self._intervals[name] = interval(values, around=self[name] if statistic.biased else None)
            else:
                self.missing.setdefault(name, "some resamples have no finite figure")
        return self._intervals.get(name)

    def why_not(self, name: str) -> str:
        """Return why a figure has no interval; "" where it has one."""
        if self.interval(name) is not None:
            return ""
        return self.missing.get(name) or (ALONE if name in self.statistics else PLAIN)

    def lines(self) -> Iterator[tuple[str, str]]:
        """Yield (name, text) of each figure: `3.46 [3.41, 3.52], n=512`."""
        for name, value in self.items():
            found = self.interval(name)
            shown = f"{value:.6g}" if found is None else _ranged(value, *found)
            if name in self.statistics:
                shown += f", n={self.count(name)}"
            yield name, f"{shown}, {self.notes[name]}" if name in self.notes else shown

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as JSON has it."""
        return {
            "figures": dict(self),
            "intervals": {name: list(found) for name, found in self.intervals.items()},
            "samples": self.samples,
            "unit": self.unit,
            "counts": {name: count for name in self if (count := self.count(name)) != self.samples},
            "level": self.level,
            "resamples": self.resamples,
            "seed": self.seed,
            "notes": dict(self.notes),
            "without": {name: why for name in self if (why := self.why_not(name))}
            | {name: why for name, why in self.missing.items() if name not in self},
        }

    def copy(self) -> Figures:
        """Return a copy."""
        found = Figures(
            self,
            statistics=self.statistics,
            samples=self.samples,
            unit=self.unit,
            missing=self.missing,
            notes=self.notes,
        )
        found._intervals = dict(self._intervals)
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what is pickled: without what intervals are computed from, and with those that were computed."""
        return _restored, (dict(self), self.samples, self.unit, self.missing, self.notes, self._intervals)


def _restored(
    figures: dict[str, float],
    samples: int,
    unit: str,
    missing: dict[str, str],
    notes: dict[str, str],
    intervals: dict[str, tuple[float, float]],
) -> Figures:
    found = Figures(figures, samples=samples, unit=unit, missing=missing, notes=notes)
    found._intervals = dict(intervals)
    return found


def _ranged(value: float, low: float, high: float) -> str:
    """Return a figure and its interval with as many decimals as tell the two ends apart."""
    width = high - low
    decimals = 1 - math.floor(math.log10(width)) if width > 0 else 4
    kind = f".{max(0, decimals)}f" if decimals <= 8 else ".4g"
    return f"{value:{kind}} [{low:{kind}}, {high:{kind}}]"
