"""How the batches of a step are divided among processes, so that a run goes on with more or fewer of them.

A step has so many batches, whoever computes them: their numbers count through the whole run, batch j of a step is of
process j mod processes, and what is drawn for a batch follows from the run's seed and the batch's number. P processes
are therefore one process that accumulates P times as many batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zoo.errors import TuningError

KEY = "division"  # its name among the settings in a checkpoint
SHARED = ("batch_size", "gradient_accumulation_steps", "processes", KEY)  # what may differ where the items do not


@dataclass(frozen=True)
class Division:
    """The batches of each step.

    Attributes:
        batch_size: items in a batch.
        batches: batches in a step, of all processes.
        process: this process.
        processes: how many there are.
    """

    batch_size: int
    batches: int
    process: int = 0
    processes: int = 1

    @property
    def items(self) -> int:
        """The items in a step."""
        return self.batch_size * self.batches

    def own(self, step: int) -> range:
        """Return the numbers, counted from the run's beginning, of this process's batches in `step` (from 0)."""
        first = step * self.batches
        return range(first + self.process, first + self.batches, self.processes)

    def described(self) -> str:
        """Return the division in words."""
        each = f"{self.batches} batches" if self.batches > 1 else "one batch"
        return f"{each} of {self.batch_size} in a step"


def divided(
    batch_size: int, accumulated: int, process: int, processes: int, last: Mapping[str, Any] | None = None
) -> Division:
    """Return the division of a run, or of one that goes on from a checkpoint with these settings `last`.

    Equal options on another number of processes keep the items of a step; where there are more processes than batches,
    the batches are cut.

    Raises:
        TuningError: the items of a step cannot be shared out.
    """
    asked = Division(batch_size, accumulated * processes, process, processes)
    if last is None:
        return asked
    then = divided_then(last)
    if asked.items == then.items:
        return asked
    same_options = batch_size == last.get("batch_size") and accumulated == last.get("gradient_accumulation_steps")
    if not same_options:
        return asked  # which `check_same` refuses, and names what is not as it was
    if then.batches >= processes:
        return Division(then.batch_size, then.batches, process, processes)
    if then.items % processes:
        raise TuningError(
            f"a step of this run has {then.described()}, which {processes} processes cannot share: go on with a number "
            f"of processes that divides {then.items}"
        )
    return Division(then.items // processes, processes, process, processes)


def divided_then(settings: Mapping[str, Any]) -> Division:
    """Return the division of a checkpoint's run; those of earlier versions name the processes alone.

    Raises:
        ValueError: the settings say what cannot be.
    """
    size, accumulated = settings.get("batch_size", 1), settings.get("gradient_accumulation_steps", 1)
    cut = settings.get(KEY) or [size, accumulated * settings.get("processes", 1)]
    if not isinstance(cut, list) or len(cut) != 2 or not all(type(one) is int and one > 0 for one in cut):
        raise ValueError(f"expected {KEY} as two whole numbers, got {cut!r:.40}")
    return Division(*cut)
