"""How good one way is: its figures as a file keeps them, and how they differ from another's, example by example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from zoo.metrics import Difference, Figures, paired
from zoo.metrics.statistics import Ratio


@dataclass(frozen=True)
class Quality:
    """The figures of one way.

    Attributes:
        name: what the way is called.
        found: what `kept` returned.
    """

    name: str
    found: dict[str, Any]

    @property
    def figures(self) -> dict[str, float]:
        """Name → figure, the main one first."""
        figures: dict[str, float] = self.found["figures"]
        return figures

    def interval(self, name: str) -> tuple[float, float] | None:
        """Return the interval of a figure."""
        ends = self.found["intervals"].get(name)
        return None if ends is None else (ends[0], ends[1])

    def against(self, other: Quality) -> tuple[str, Difference] | None:
        """Return the first figure whose values of each example both have, and its difference in pairs."""
        mine, theirs = _each(self.found), _each(other.found)
        for name in self.figures:
            if name in mine and name in theirs and mine.count(name) == theirs.count(name) > 1:
                return name, paired(_only(mine, name), _only(theirs, name))[name]
        return None


def kept(figures: Figures) -> dict[str, Any]:
    """Return figures and intervals as JSON has them and, of those that are means, the values of each example."""
    each = {
        name: {"values": one.values.tolist(), "weights": one.weights.tolist()}
        for name, one in figures.statistics.items()
        if name in figures and isinstance(one, Ratio) and one.then is None
    }
    return {**figures.as_dict(), "each": each}


def _each(quality: dict[str, Any]) -> Figures:
    statistics = {name: Ratio(one["values"], one["weights"]) for name, one in quality["each"].items()}
    return Figures({name: quality["figures"][name] for name in statistics}, statistics=statistics)


def _only(figures: Figures, name: str) -> Figures:
    return Figures({name: figures[name]}, statistics={name: figures.statistics[name]})
