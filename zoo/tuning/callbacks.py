"""Callbacks of a run, and what they see of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.errors import TuningError, did_you_mean

EVENTS = ("on_start", "on_step", "on_evaluate", "on_save", "on_end")


@dataclass
class TuneState:
    """A run as its callbacks see it.

    Attributes:
        step: steps done.
        steps: the budget in steps; None where it is in minutes.
        loss: of the last step.
        lr: the learning rate of the last step.
        used: the share of the budget that is used.
        metrics: of the last evaluation.
        best_step: the step of the best evaluation so far; None before the first.
        out: the run's folder, or None.
        checkpoint: the last checkpoint's folder, or None.
        stopped: why the run ends before its budget, once something has called `stop`.
    """

    steps: int | None
    out: Path | None
    step: int = 0
    loss: float = float("nan")
    lr: float = 0.0
    used: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    best_step: int | None = None
    checkpoint: Path | None = None
    stopped: str | None = None

    def stop(self, why: str = "a callback stopped it") -> None:
        """End the run after this step, as if its budget was used up."""
        self.stopped = self.stopped or why


class Callback:
    """What happens besides training. Override what you need; nothing that is drawn here changes the run.

    >>> class Printer(Callback):
    ...     def on_step(self, run):
    ...         if run.loss < 0.1:
    ...             run.stop("the loss is low enough")
    """

    def on_start(self, run: TuneState) -> None:
        """Before the first step."""

    def on_step(self, run: TuneState) -> None:
        """After each step."""

    def on_evaluate(self, run: TuneState) -> None:
        """After each evaluation, whose figures are in `run.metrics`."""

    def on_save(self, run: TuneState) -> None:
        """After each checkpoint, which is in `run.checkpoint`."""

    def on_end(self, run: TuneState) -> None:
        """After the last step, when the weights are what they stay."""


def checked(callbacks: Sequence[Any]) -> list[Any]:
    """Return the callbacks, each of which has some of the methods of `Callback` and no other that begins with "on_".

    Raises:
        TuningError: one has none of them, or a misspelt one.
    """
    if not isinstance(callbacks, list | tuple):
        raise TuningError(f"expected callbacks as a list of them, got {callbacks!r:.40}")
    for callback in callbacks:
        if isinstance(callback, type):
            raise TuningError(f"callbacks: expected an object, got the class: give {callback.__name__}()")
        own = [name for name in dir(callback) if name.startswith("on_")]
        wrong = next((name for name in own if name not in EVENTS), None)
        if not own or wrong:
            raise TuningError(
                f"callbacks: expected methods of zoo.Callback ({', '.join(EVENTS)}), got {wrong or 'none of them'} in "
                f"{type(callback).__name__}.{did_you_mean(wrong or '', EVENTS)}"
            )
    return list(callbacks)


def call(callbacks: Sequence[Any], event: str, run: TuneState) -> None:
    """Call the method of that name of every callback that has it."""
    for callback in callbacks:
        method = getattr(callback, event, None)
        if method is not None:
            method(run)
