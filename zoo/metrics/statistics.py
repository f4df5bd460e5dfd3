"""What a figure is computed from, example by example, so that it can be computed of any choice of them.

Notation of the shapes: n examples, k of them chosen (one may be chosen several times).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from zoo.errors import DataError
from zoo.metrics.resampling import RESAMPLES
from zoo.torch_state.modes import seeded

if TYPE_CHECKING:
    from torchmetrics import Metric


class Statistic(Protocol):
    """A figure as a function of the examples.

    Attributes:
        resamples: how many it can be asked for; fewer where one takes long.
        biased: whether resamples are off from the figure on one side.
    """

    resamples: int
    biased: bool

    def __len__(self) -> int:
        """Return the number of examples, n."""

    def of(self, rows: Tensor | None = None) -> float:
        """Return the figure of the examples `rows`, int64 [k]; None: of all."""

    def each(self) -> Tensor | None:
        """Return the figure of each example alone, float64 [n]; None where one alone has none."""


class Ratio:
    """then(Σ values / Σ weights): a mean over the examples, or over what is in them, such as tokens.

    Args:
        values: [n].
        weights: [n], at least 0; None: each example counts once.
        then: what the figure is of that mean; default: the mean itself.
    """

    resamples = RESAMPLES
    biased = False

    def __init__(self, values: Any, weights: Any = None, then: Callable[[float], float] | None = None) -> None:
        self.values = torch.as_tensor(values).detach().double().cpu().flatten()
        self.weights = torch.ones_like(self.values) if weights is None else _vector(weights)
        self.then = then
        if self.weights.shape != self.values.shape:
            raise DataError(f"expected as many weights as values, got {len(self.weights)} and {len(self.values)}")

    def __len__(self) -> int:
        return len(self.values)

    def of(self, rows: Tensor | None = None) -> float:
        """Return the figure of some examples."""
        values, weights = (self.values, self.weights) if rows is None else (self.values[rows], self.weights[rows])
        total = float(weights.sum())
        mean = float(values.sum()) / total if total else 0.0
        return mean if self.then is None else self.then(mean)

    def each(self) -> Tensor:
        """Return the figure of each example; NaN for those of no weight."""
        means = torch.where(self.weights > 0, self.values / self.weights, torch.nan)
        if self.then is None:
            return means
        return torch.tensor([mean if mean != mean else self.then(mean) for mean in means.tolist()], dtype=torch.float64)


class States:
    """A metric of torchmetrics whose states are kept for each example: sums or lists, as most of them have.

    Args:
        metric: the metric, which is updated with one example at a time.
    """

    biased = False

    def __init__(self, metric: Metric, resamples: int = 200) -> None:
        from torchmetrics.utilities import dim_zero_cat, dim_zero_sum

        self.metric, self.resamples = metric, resamples
        self._kept: list[dict[str, Any]] = []
        self._joined: dict[str, Any] | None = None
        for name, reduction in metric._reductions.items():
            fits = reduction in (None, dim_zero_cat) if isinstance(metric._defaults[name], list) else True
            constant = reduction is not dim_zero_sum and not isinstance(metric._defaults[name], list)
            if not fits or (constant and name != "data_range"):
                raise DataError(
                    f"{type(metric).__name__}: the state {name!r} of one example cannot be joined to others'"
                )

    def __len__(self) -> int:
        return len(self._kept)

    def update(self, *arguments: Any) -> None:
        """Take one example: what the metric's `update` takes, with one row."""
        self.metric.reset()
        self.metric.update(*arguments)
        self.keep()

    def keep(self) -> None:
        """Take what the metric has seen since its last `reset` as one example."""
        kept = {name: getattr(self.metric, name) for name in self.metric._defaults}
        self._kept.append({name: list(v) if isinstance(v, list) else v.detach().clone() for name, v in kept.items()})
        self._joined = None

    def extend(self, others: States) -> None:
        """Take the examples of the same metric from others."""
        self._kept += others._kept
        self._joined = None

    def state(self, name: str) -> Tensor:
        """Return a state that is a sum, of every example: [n, …]."""
        return torch.stack([kept[name] for kept in self._kept]).cpu()

    def __getstate__(self) -> dict[str, Any]:
        # To another process, which has not this one's device.
        return {**vars(self), "_kept": tree_map_only(Tensor, lambda state: state.cpu(), self._kept)}

    def of(self, rows: Tensor | None = None) -> float:
        """Return the metric of some examples."""
        if self._joined is None:
            self._joined = {
                name: [[one.cpu() for one in kept[name]] for kept in self._kept]
                if isinstance(default, list)
                else self.state(name)
                for name, default in self.metric._defaults.items()
            }
        self.metric.cpu()
        chosen = range(len(self)) if rows is None else rows.tolist()
        self.metric.reset()
        for name, joined in self._joined.items():
            if isinstance(joined, list):
                setattr(self.metric, name, [one for row in chosen for one in joined[row]])
            elif name == "data_range":
                setattr(self.metric, name, joined[0])
            else:
                setattr(self.metric, name, joined.sum(0) if rows is None else joined[rows].sum(0))
        self.metric._update_count = len(chosen)
        return _number(self.metric.compute())

    def each(self) -> Tensor:
        """Return the metric of each example."""
        return torch.tensor([self.of(torch.tensor([row])) for row in range(len(self))], dtype=torch.float64)


class Inputs:
    """A function of the examples' own values, computed anew for every choice of them.

    Args:
        compute: from the chosen rows of each of `inputs` to a number; or a metric of torchmetrics, whose `update` takes
            them. What it draws is drawn from a fixed seed.
        inputs: of each n rows: tensors [n, …] or lists.
        resamples: how many of them; a distance of distributions takes long.
        biased: whether resamples are off from the figure on one side.
        alone: whether one example alone has a figure.
    """

    def __init__(
        self, compute: Callable[..., Any] | Metric, *inputs: Any, resamples: int, biased: bool, alone: bool
    ) -> None:
        self.inputs = [one.detach().cpu() if isinstance(one, Tensor) else list(one) for one in inputs]
        if len({len(one) for one in self.inputs}) != 1:
            raise DataError(f"expected inputs of one length, got {', '.join(str(len(one)) for one in self.inputs)}")
        self.compute, self.resamples, self.biased, self.alone = compute, resamples, biased, alone

    def __len__(self) -> int:
        return len(self.inputs[0])

    def of(self, rows: Tensor | None = None) -> float:
        """Return the figure of some examples."""
        chosen = self.inputs if rows is None else [_chosen(one, rows) for one in self.inputs]
        with seeded(0):
            metric: Any = self.compute
            if not hasattr(metric, "compute"):
                return _number(metric(*chosen))
            metric.reset()
            metric.update(*chosen)
            found = _number(metric.compute())
            metric.reset()
        return found

    def each(self) -> Tensor | None:
        """Return the figure of each example, where one alone has one."""
        if not self.alone:
            return None
        return torch.tensor([self.of(torch.tensor([row])) for row in range(len(self))], dtype=torch.float64)


def _chosen(values: Tensor | Sequence[Any], rows: Tensor) -> Any:
    return values[rows] if isinstance(values, Tensor) else [values[row] for row in rows.tolist()]


def _vector(values: Any) -> Tensor:
    return torch.as_tensor(values).detach().double().cpu().flatten()


def _number(value: Any) -> float:
    """Return what a metric gives as a number: of several, such as (mean, deviation), the first."""
    if isinstance(value, tuple | list):
        value = value[0]
    if isinstance(value, dict):
        value = next(iter(value.values()))
    return float(value)
