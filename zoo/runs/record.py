"""What a run leaves beside its checkpoints: `run.toml`, and with the report what the model was before and is after."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.errors import ZooError, one_line
from zoo.runs import kept_samples, report
from zoo.runs.completed import run_file
from zoo.samples import Samples
from zoo.storage.atomic import write_json
from zoo.storage.staging import sweep
from zoo.tuning.evaluation import check_metric, intervals_of
from zoo.tuning.progress import note
from zoo.tuning.result import TuneResult
from zoo.tuning.settings import Settings

COUNT = 8  # samples before and after
BEFORE = "before"  # in the run's folder, what was drawn and measured before the first step


class RunRecord:
    """The record of one run, which the loop keeps (`zoo.tuning.record.Record`).

    Args:
        model: what trains.
        data: on what.
        tuning: the arguments of `model.tune`, with all that was chosen.
        main: whether this is the process that writes.

    Attributes:
        file: the content of `run.toml`.
    """

    def __init__(self, model: Any, data: Any, tuning: Mapping[str, Any], main: bool) -> None:
        self.model, self.tuning, self.main = model, tuning, main
        self.out = Path(tuning["out"])
        self.wanted: bool = tuning["report"]
        self.file = run_file(model, data, tuning)
        self.before: Samples | str = "they were not drawn before the first step"
        self.figures: dict[str, Any] = {}

    def begin(self, step: int, eval_data: Any) -> None:
        """Draw samples and measure before the first step; of a run that goes on, read those of then.

        Every process draws, as they may share the weights or the work; one of them writes.

        Args:
            step: how many were done before.
            eval_data: what the run evaluates on.

        Raises:
            TuningError: the metric that counts is not among those of an evaluation.
            OutputError: the folder cannot be written.
        """
        if not self.wanted or (step and not self.main):
            return
        folder = self.out / BEFORE
        if step:
            found = kept_samples.kept(folder / "samples", lambda: self.model.entry)
            self.before = "those from before the first step are lost" if found is None else found
            self.figures = report.kept_figures(folder / "figures.json")
            return
        self.before = self._drawn()
        if self.tuning["eval_every"] is not None:
            figures = self.model.evaluate(eval_data)
            check_metric(self.tuning["metric"], figures)
            self.figures = report.told_figures(figures, intervals_of(figures))
        if self.main:
            folder.mkdir(exist_ok=True)
            sweep(folder)  # of a run that was killed here
            write_json(folder / "figures.json", self.figures)
            if isinstance(self.before, Samples):
                kept_samples.keep(self.before, folder / "samples")

    def end(self, result: TuneResult, settings: Settings) -> Path | None:
        """Write `report.html`, whose path is returned, and `report.json`; what prevents that costs no weights."""
        if not self.wanted:
            return None
        after = self._drawn()  # by all processes, which may share that
        if not self.main:
            return None
        try:
            content = report.content(self.model, result, settings, self.tuning, self.figures)
            page = report.page(content, self.file, self.before, after)
            write_json(self.out / report.DATA, content)
            return page.write(self.out / report.PAGE)
        except (ZooError, OSError) as error:
            note(f"no report: {one_line(error)}", quiet=False)
            return None

    def _drawn(self) -> Samples | str:
        """Return samples at the run's seed, or why there are none."""
        try:
            samples: Samples = self.model.sample(COUNT, seed=self.tuning["seed"])
        except Exception as error:  # a plugin's own errors, of any class
            return one_line(error, 300)
        return samples
