"""What a run leaves beside its checkpoints, as the loop sees it: a file that says what it is, and a report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from zoo.tuning.result import TuneResult
from zoo.tuning.settings import Settings


class Record(Protocol):
    """What the loop calls; `zoo.runs.record.RunRecord` is one.

    Attributes:
        file: the content of `run.toml`.
    """

    file: str

    def begin(self, step: int, eval_data: Any) -> None:
        """Note how the model is before the first step, or find what was noted.

        Args:
            step: how many were done before.
            eval_data: what the run evaluates on.
        """

    def end(self, result: TuneResult, settings: Settings) -> Path | None:
        """Write the report of the finished run, and return where it is."""


def record_of(model: Any, data: Any, tuning: Mapping[str, Any], main: bool) -> Record | None:
    """Return what keeps the record of a run; None where the model is not zoo's.

    Args:
        model: what trains.
        data: on what.
        tuning: the arguments of `model.tune`, with all that was chosen for those not given.
        main: whether this is the process that writes.
    """
    make = getattr(model, "run_record", None)
    return None if make is None else make(data, tuning, main)
