"""Evaluations within a run: which is the best one, and whether to go on."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.errors import CheckpointError, TuningError
from zoo.metrics.directions import RISING as RISING
from zoo.storage.atomic import save_tensors, staged_folder
from zoo.tuning import manifest
from zoo.tuning.checkpoint import STATE, TENSORS, remove

LOST = "cannot use the best weights of the run"


@dataclass(frozen=True)
class EvaluationSettings:
    """When a run evaluates, and what follows from it.

    Attributes:
        every: steps between two evaluations; None: never.
        data: what to evaluate on; None: what the run's own data hold out.
        metric: the one that counts; None: the first.
        patience: evaluations without a better one after which the run stops; None: it goes on.
        keep_best: whether the weights are in the end those of the best evaluation, and not the last ones.
    """

    every: int | None = None
    data: Any = None
    metric: str | None = None
    patience: int | None = None
    keep_best: bool = True

    def __post_init__(self) -> None:
        for name in ("every", "patience"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                said = "eval_every" if name == "every" else name
                raise TuningError(f"expected {said} as a whole number, at least 1, got {value!r}")
        if self.every is None:
            given = {"eval_data": self.data, "metric": self.metric, "patience": self.patience}
            named = [name for name, value in given.items() if value is not None]
            if named:
                raise TuningError(f"{' and '.join(named)} are of evaluations: add eval_every=, the steps between two")


@dataclass
class Evaluations:
    """The evaluations of a run so far.

    Attributes:
        settings: when and what.
        history: (step, metrics) of each.
        best: its index in the history; None before the first.
        intervals: step → the interval of each figure that has one.
        weights: what trained, as it was at the best one, where there is no folder for it.
    """

    settings: EvaluationSettings
    history: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    best: int | None = None
    intervals: dict[int, dict[str, tuple[float, float]]] = field(default_factory=dict)
    weights: dict[str, Tensor] | None = None

    def due(self, step: int, finished: bool) -> bool:
        """Return whether to evaluate after this step."""
        every = self.settings.every
        return every is not None and (step % every == 0 or finished) and step != self.last_step

    @property
    def last_step(self) -> int | None:
        """The step of the last evaluation."""
        return self.history[-1][0] if self.history else None

    @property
    def best_step(self) -> int | None:
        """The step of the best evaluation."""
        return None if self.best is None else self.history[self.best][0]

    @property
    def metric(self) -> str:
        """The metric that counts."""
        return self.settings.metric or next(iter(self.history[0][1]))

    def add(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Add an evaluation; return whether it is the best so far.

        Raises:
            TuningError: the metric that counts is not among the metrics.
        """
        check_metric(self.settings.metric, metrics)
        self.history.append((step, dict(metrics)))
        self.intervals[step] = intervals_of(metrics)
        if math.isnan(self._value(-1)):
            return False
        if self.best is None or self._value(-1) < self._value(self.best):
            self.best = len(self.history) - 1
            return True
        return False

    def _value(self, index: int) -> float:
        value = self.history[index][1][self.metric]
        return -value if self.metric in RISING else value

    def exhausted(self) -> str | None:
        """Return why the run should stop now, if it should."""
        waited = len(self.history) - 1 - (-1 if self.best is None else self.best)
        if self.settings.patience is None or waited < self.settings.patience:
            return None
        way = "higher" if self.metric in RISING else "lower"
        return f"{waited} evaluations without a {way} {self.metric} than at step {self.best_step}"

    def line(self, seconds: float) -> str:
        """Return the last evaluation as a line of text."""
        step, metrics = self.history[-1]
        figures = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        best = f" (the best, by {self.metric})" if self.best == len(self.history) - 1 else ""
        return f"step {step}: held out: {figures}{best}, in {seconds:.1f} s"

    def as_dict(self) -> dict[str, Any]:
        """Return the evaluations as a checkpoint holds them."""
        history = [[step, metrics] for step, metrics in self.history]
        return {
            "history": history,
            "best": self.best,
            "intervals": {str(at): one for at, one in self.intervals.items()},
        }

    def restore(self, kept: Mapping[str, Any]) -> None:
        """Go on from what `as_dict` returned."""
        self.history = [(step, dict(metrics)) for step, metrics in kept["history"]]
        self.best = kept["best"]
        told = kept.get("intervals", {})  # version 0.2 had none
        self.intervals = {int(at): {name: (low, high) for name, (low, high) in one.items()} for at, one in told.items()}


def intervals_of(figures: Any) -> dict[str, tuple[float, float]]:
    """Return the finite intervals of `zoo.metrics.Figures` by name; none of a plain dict."""
    found = getattr(figures, "intervals", {})
    return {name: ends for name, ends in found.items() if all(map(math.isfinite, ends))}


def check_metric(metric: str | None, metrics: Collection[str]) -> None:
    """Raise TuningError if the metric that counts is not among the metrics."""
    if metric is not None and metric not in metrics:
        raise TuningError(f"expected metric as one of {', '.join(metrics)}, got {metric!r}")


def save_best(out: Path, step: int, weights: Mapping[str, Tensor], metrics: Mapping[str, float]) -> Path:
    """Write the weights of the best evaluation into `<out>/best-<step>/`; earlier ones stay until `keep`."""
    folder = out / f"best-{step}"
    with staged_folder(folder) as staged:
        save_tensors(staged / TENSORS, dict(weights))
        manifest.write(staged / STATE, {"step": step, "metrics": dict(metrics)}, (TENSORS,))
    return folder


def check_best(out: Path, step: int) -> None:
    """Verify what `save_best` wrote.

    Raises:
        CheckpointError: it is not there or damaged.
    """
    folder = out / f"best-{step}"
    try:
        manifest.read(folder / STATE)
    except CheckpointError as error:
        raise CheckpointError(f"{LOST}, {folder}: {error}") from error


def load_best(out: Path, step: int) -> dict[str, Tensor]:
    """Read what `save_best` wrote.

    Raises:
        CheckpointError: it is not there or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    check_best(out, step)
    folder = out / f"best-{step}"
    try:
        return load_file(folder / TENSORS)
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{LOST}, {folder}: {error}") from error


def best_of(evaluations: Mapping[str, Any] | None) -> int | None:
    """Return the step of the best evaluation that a checkpoint says."""
    if evaluations is None or evaluations["best"] is None:
        return None
    step: int = evaluations["history"][evaluations["best"]][0]
    return step


def keep(out: Path, steps: Collection[int]) -> None:
    """Remove the best weights of other steps than these, which checkpoints know of."""
    for folder in out.iterdir():
        match = re.fullmatch(r"best-(\d{1,18})", folder.name)
        if match and int(match[1]) not in steps and (folder / STATE).is_file():
            remove(folder)
