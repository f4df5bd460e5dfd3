"""Collect, example by example, what the figures of an evaluation are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zoo.errors import DataError
from zoo.metrics.figures import Figures
from zoo.metrics.statistics import Inputs, Ratio, States, Statistic

if TYPE_CHECKING:
    from torchmetrics import Metric


class Scores:
    """The values of n examples, of which `figures()` makes named figures with intervals.

    The examples are in an order of the data's, so that two models can be compared example by example. A metric may have
    others than the main one (answers, and not windows of text)::

        scores = zoo.metrics.Scores("images")
        scores.mean("loss", losses)                     # [n]
        scores.ratio("accuracy", right, counted)        # Σ right / Σ counted, each [n]
        scores.add("psnr", PeakSignalNoiseRatio(data_range=1.0), images, wanted)
        return scores.figures()

    Args:
        unit: what an example is, in the plural.
    """

    def __init__(self, unit: str = "examples") -> None:
        self.unit = unit
        self.statistics: dict[str, Statistic] = {}
        self.plain: dict[str, float | None] = {}
        self.missing: dict[str, str] = {}
        self.notes: dict[str, str] = {}

    def mean(self, name: str, values: Any, *, then: Callable[[float], float] | None = None) -> None:
        """Add the mean of a value [n] of each example, or what `then` makes of that mean."""
        self.put(name, Ratio(values, then=then))

    def ratio(self, name: str, values: Any, weights: Any, *, then: Callable[[float], float] | None = None) -> None:
        """Add Σ values / Σ weights, each [n]: a mean over what is in the examples; or what `then` makes of it."""
        self.put(name, Ratio(values, weights, then))

    def add(
        self,
        name: str,
        compute: Callable[..., Any] | Metric,
        *inputs: Any,
        resamples: int = 200,
        biased: bool = False,
        alone: bool = False,
    ) -> None:
        """Add a metric of torchmetrics, or any function, of values that are kept: tensors [n, …] or lists.

        Args:
            name: the figure's.
            compute: what `update` and `compute` of a metric, or a function, make of the chosen rows of the inputs.
            *inputs: of n rows each.
            resamples: how many there are to be for the interval.
            biased: whether a resample is off from the figure on one side, as a distance of distributions is.
            alone: whether one example alone has a figure.
        """
        self.put(name, Inputs(compute, *inputs, resamples=resamples, biased=biased, alone=alone))

    def update(self, name: str, metric: Callable[[], Metric], *arguments: Any) -> None:
        """Add a batch to a metric of torchmetrics whose inputs are too large to keep: its states are, by example.

        Args:
            name: the figure's.
            metric: makes the metric, at the first batch.
            *arguments: what its `update` takes: tensors or lists [b, …], taken row by row.
        """
        states = self.statistics.get(name)
        if states is None:
            states = self.statistics[name] = States(metric())
        if not isinstance(states, States):
            raise DataError(f"{name!r} is there already, and no metric with states")
        for row in range(len(arguments[0])):
            states.update(*(one[row : row + 1] for one in arguments))

    def put(self, name: str, statistic: Statistic) -> None:
        """Add any statistic."""
        self.statistics[name] = statistic

    def number(self, name: str, value: float, why: str) -> None:
        """Add a figure that has no interval, and why."""
        self.plain[name], self.missing[name] = float(value), why

    def omit(self, name: str, why: str) -> None:
        """Say why there is no such figure."""
        self.missing[name] = why

    def note(self, name: str, text: str) -> None:
        """Say what else there is to know of a figure, such as the feature space of a distance."""
        self.notes[name] = text

    def figures(self, *order: str) -> Figures:
        """Return the figures, those of `order` first.

        Raises:
            DataError: there is no example.
        """
        sizes = {name: len(one) for name, one in self.statistics.items()}
        if 0 in sizes.values():
            raise DataError(f"there are no {self.unit} to evaluate on: give at least one")
        found = {name: one.of() for name, one in self.statistics.items()}
        found |= {name: value for name, value in self.plain.items() if value is not None}
        named = [*(name for name in order if name in found), *(name for name in found if name not in order)]
        return Figures(
            {name: found[name] for name in named},
            statistics=self.statistics,
            samples=next((sizes[name] for name in named if name in sizes), 0),
            unit=self.unit,
            missing=self.missing,
            notes=self.notes,
        )
