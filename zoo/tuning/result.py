"""The result of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.bounded.notebook import table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from zoo.data.report import Report

_BLOCKS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class TuneResult:
    """A finished run.

    Attributes:
        losses: one value per step, those before a resume included.
        steps: their number.
        seconds: the time of all of them.
        batch_size: items per step, over all accumulated batches and processes.
        lr: the highest learning rate.
        seed: of the batches and of everything random in the loss.
        trainable: number of the parameters that were trained.
        out: the run's folder, or None.
        checkpoint: the last checkpoint's folder in `out`, or None.
        resumed_from: the step that this call began at.
        evaluations: (step, metrics) of each evaluation, those before a resume included.
        intervals: step → the interval of each figure of its evaluation that has one.
        best_step: the step of the best of them; None without any.
        stopped: why the run ended before its budget, if it did.
        main_process: whether this is the only or the first process, which is to write and to print.
        reports: what was taken of each source of the data, and what was left.
        report: `report.html` in the run's folder; None where none was written.
    """

    losses: tuple[float, ...]
    steps: int
    seconds: float
    batch_size: int
    lr: float
    seed: int
    trainable: int
    out: Path | None = None
    checkpoint: Path | None = None
    resumed_from: int = 0
    evaluations: tuple[tuple[int, dict[str, float]], ...] = ()
    intervals: Mapping[int, Mapping[str, tuple[float, float]]] = field(default_factory=dict, repr=False)
    best_step: int | None = None
    stopped: str | None = None
    main_process: bool = True
    reports: tuple[Report, ...] = field(default=(), repr=False)
    report: Path | None = None

    @property
    def loss(self) -> float:
        """The mean loss of the last tenth of the steps (single ones jump); nan without any step."""
        last = self.losses[-max(1, len(self.losses) // 10) :]
        return sum(last) / len(last) if last else math.nan

    def summary(self) -> str:
        """Return one line: steps, time, speed, and the loss at the start and the end."""
        if not self.losses:
            return "no step was taken"
        first = self.losses[: max(1, len(self.losses) // 10)]
        speed = self.steps / max(self.seconds, 1e-9)
        return (
            f"{self.steps} steps of {self.batch_size} in {self.seconds:.1f} s ({speed:.3g} a second): "
            f"loss {sum(first) / len(first):.4g} → {self.loss:.4g}, {self.trainable:,} parameters trained"
        )

    def curve(self, width: int = 60) -> str:
        """Return the losses as a line of blocks, each the mean of its share of the steps."""
        if not self.losses:
            return ""
        width = min(width, len(self.losses))
        ends = [round(i * len(self.losses) / width) for i in range(width + 1)]
        means = [sum(self.losses[a:b]) / (b - a) for a, b in pairwise(ends)]
        low, high = min(means), max(means)
        scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
        return "".join(_BLOCKS[round((value - low) * scale)] for value in means)

    def _repr_html_(self) -> str:
        evaluated = self.evaluations[-1] if self.evaluations else None
        last = "" if evaluated is None else ", ".join(f"{name} {value:.4g}" for name, value in evaluated[1].items())
        return table(
            "zoo.TuneResult",
            {
                "run": self.summary(),
                "losses": self.curve(),
                "stopped": self.stopped,
                "best step": self.best_step,
                "last evaluation": last,
                "checkpoint": self.checkpoint,
                "report": self.report,
            },
        )

    def __rich__(self) -> RenderableType:
        from rich.text import Text

        lines = [self.summary(), self.curve()]
        if self.checkpoint is not None:
            lines.append(f"checkpoint: {self.checkpoint}")
        return Text("\n".join(lines))
