"""Two models on the same examples: the difference of each figure, its interval, and on how many each is the better."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

from zoo.errors import DataError
from zoo.metrics.directions import rises
from zoo.metrics.figures import Figures
from zoo.metrics.resampling import LEVEL, draws, interval


@dataclass(frozen=True)
class Difference:
    """One figure of the first model minus that of the second.

    Attributes:
        value: the difference.
        low, high: its 95 % interval, by resampling the examples of both alike.
        resamples: how many there were.
        rises: whether more of the figure is better.
        wins, losses, ties: on how many examples the first is better, worse, the same; None where one example alone has
            no such figure.
    """

    value: float
    low: float
    high: float
    resamples: int
    rises: bool
    wins: int | None = None
    losses: int | None = None
    ties: int | None = None

    @property
    def better(self) -> bool | None:
        """Whether the first model is better; None where the interval has both signs, or zero."""
        if self.low <= 0 <= self.high:
            return None
        return (self.low > 0) == self.rises


class Differences(dict[str, Difference]):
    """Name → difference of the figures that two evaluations share.

    Attributes:
        samples: the number of examples; unit: what they are.
    """

    def __init__(self, found: dict[str, Difference], samples: int, unit: str) -> None:
        super().__init__(found)
        self.samples, self.unit, self.level = samples, unit, LEVEL

    def lines(self) -> Iterator[tuple[str, str]]:
        """Yield (name, text) of each difference."""
        for name, one in self.items():
            verdict = {True: "better", False: "worse", None: "no clear difference"}[one.better]
            counts = "" if one.wins is None else f", {one.wins} wins, {one.losses} losses, {one.ties} ties"
            yield name, f"{one.value:+.4g} [{one.low:+.4g}, {one.high:+.4g}], n={self.samples}{counts}: {verdict}"

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as JSON has it."""
        return {
            "differences": {name: {**asdict(one), "better": one.better} for name, one in self.items()},
            "samples": self.samples,
            "unit": self.unit,
            "level": self.level,
        }


def paired(first: Figures, second: Figures) -> Differences:
    """Return how two models differ on the same examples, figure by figure: first minus second.

    Args:
        first: what `model.evaluate` returned.
        second: the same of another model, on the same data.

    Raises:
        DataError: the figures are not of the same examples, or there is none that both have.
    """
    names = [name for name in first if name in first.statistics and name in second.statistics]
    if not names:
        ours, theirs = (", ".join(one) or "nothing" for one in (first, second))
        raise DataError(
            f"there is no figure with values of each example in both: the first has {ours}; the second {theirs}"
        )
    for name in names:
        if (first.count(name), first.unit) != (second.count(name), second.unit):
            raise DataError(
                f"the two were not evaluated on the same examples: {first.count(name)} {first.unit} and "
                f"{second.count(name)} {second.unit}: a comparison in pairs needs models that read the data alike"
            )
    found = {name: _difference(name, first, second) for name in names if first.count(name) > 1}
    if not found:
        raise DataError(f"one example alone has no interval: give data with more {first.unit} to evaluate on")
    return Differences(found, first.samples, first.unit)


def _difference(name: str, first: Figures, second: Figures) -> Difference:
    one, two = first.statistics[name], second.statistics[name]
    resamples = min(one.resamples, two.resamples)
    values = [one.of(rows) - two.of(rows) for rows in draws(len(one), resamples)]
    value = first[name] - second[name]
    low, high = interval(values, around=value if one.biased or two.biased else None)
    each, other = one.each(), two.each()
    if each is None or other is None:
        return Difference(value, low, high, resamples, rises(name))
    gaps = each - other if rises(name) else other - each
    gaps = gaps[~torch.isnan(gaps)]
    counts = [int(found.sum()) for found in (gaps > 0, gaps < 0, gaps == 0)]
    return Difference(value, low, high, resamples, rises(name), *counts)
