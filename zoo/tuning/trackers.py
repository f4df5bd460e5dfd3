"""Experiment trackers by name, as accelerate has them: TensorBoard, Weights & Biases, MLflow and others."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import TuningError, did_you_mean, one_line, shown
from zoo.tuning.callbacks import Callback, TuneState
from zoo.tuning.progress import note

if TYPE_CHECKING:
    from accelerate import Accelerator

ALL = "all"
LOGS = "logs"  # in a run's folder, of the trackers that write files
# What a tracker calls the name of a run.
_RUN_NAME = {
    "wandb": "name",
    "mlflow": "run_name",
    "trackio": "name",
    "swanlab": "experiment_name",
    "clearml": "task_name",
}


class Trackers(Callback):
    """What a run tells its trackers: its settings at the start, the loss and rate of each step, each evaluation.

    A tracker that fails on the way is told nothing more, and the run goes on.

    Args:
        trackers: names of accelerate's trackers, "all" for all that are installed, or trackers of the user's own.
        project: what they call the project.
        run_name: what they call the run; default the name of its folder.
        out: the run's folder, in which those that write files write them.

    Raises:
        TuningError: there is no such tracker, or it is not installed.
    """

    def __init__(self, trackers: Sequence[Any], project: str, run_name: str | None, out: Any) -> None:
        self.wanted = checked_trackers(trackers, out)
        for name, value in {"project": project, "run_name": run_name}.items():
            if (value is not None or name == "project") and (not isinstance(value, str) or not value):
                raise TuningError(f"expected {name} as a name, got {value!r:.40}")
        self.project = project
        self.run_name = run_name or (Path(out).resolve().name if out is not None else None)
        self.folder = None if out is None else Path(out)
        self.live: list[Any] = []

    @contextmanager
    def started(self, accelerator: Accelerator, settings: Mapping[str, Any]) -> Iterator[None]:
        """Start the trackers for the block, in the first process."""
        if not self.wanted or not accelerator.is_main_process:
            yield
            return
        accelerator.log_with = list(self.wanted)
        if self.folder is not None:
            accelerator.project_configuration.set_directories(str(self.folder / LOGS))
        names = {name: {_RUN_NAME[name]: self.run_name} for name in self.wanted if self.run_name and name in _RUN_NAME}
        try:
            accelerator.init_trackers(self.project, config=flat(settings), init_kwargs=names)
        except Exception as error:  # a service's own errors, of any class
            raise TuningError(f"a tracker does not start: {one_line(error, 300)}") from error
        self.live = list(accelerator.trackers)
        try:
            yield
        finally:
            self._each("finish")
            accelerator.trackers.clear()

    def on_step(self, run: TuneState) -> None:
        """Tell the step's loss and learning rate."""
        self._each("log", {"train/loss": run.loss, "train/lr": run.lr}, run.step)

    def on_evaluate(self, run: TuneState) -> None:
        """Tell the figures."""
        self._each("log", {f"held_out/{name}": value for name, value in run.metrics.items()}, run.step)

    def _each(self, method: str, values: Mapping[str, float] | None = None, step: int | None = None) -> None:
        for tracker in list(self.live):
            try:
                if values is None:
                    getattr(tracker, method)()
                else:
                    getattr(tracker, method)(dict(values), step=step)
            except Exception as error:  # a service that cannot be reached must not end a run
                self.live.remove(tracker)
                note(f"the tracker {tracker.name} has failed, and is told no more: {one_line(error, 200)}", quiet=False)


def checked_trackers(trackers: Any, out: Any) -> list[Any]:
    """Return the trackers: names, and objects of accelerate's `GeneralTracker`.

    Raises:
        TuningError: there is no such tracker, it is not installed, or needs a folder and the run has none.
    """
    if not isinstance(trackers, list | tuple):
        raise TuningError(f'expected trackers as a list of names such as ["tensorboard"], got {shown(trackers, 40)}')
    if not trackers:
        return []
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers

    known, there = list(LOGGER_TYPE_TO_CLASS), [str(one) for one in get_available_trackers()]
    found: list[Any] = []
    for one in trackers:
        if isinstance(one, GeneralTracker):
            found.append(one)
            continue
        if not isinstance(one, str) or one not in [*known, ALL]:
            raise TuningError(
                f"expected a tracker of {', '.join([*known, ALL])}, or an accelerate.tracking.GeneralTracker, got "
                f"{shown(one, 40)}.{did_you_mean(one, known) if isinstance(one, str) else ''}"
            )
        if one != ALL and one not in there:
            raise TuningError(f"the tracker {one} is not installed: pip install {one}")
        found += there if one == ALL else [one]
    found = [one for at, one in enumerate(found) if not isinstance(one, str) or one not in found[:at]]
    for one in found:
        if isinstance(one, str) and LOGGER_TYPE_TO_CLASS[one].requires_logging_directory and out is None:
            raise TuningError(f"the tracker {one} writes files: give out=, the run's folder")
    return found


def flat(settings: Mapping[str, Any], name: str = "") -> dict[str, Any]:
    """Return settings under names with dots, as numbers, texts and truth values, which is what trackers take."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        path = f"{name}.{key}" if name else str(key)
        if isinstance(value, Mapping):
            found |= flat(value, path)
        elif isinstance(value, bool | int | float | str):
            found[path] = value
        elif value is not None:
            found[path] = os.fspath(value) if isinstance(value, os.PathLike) else str(value)
    return found
