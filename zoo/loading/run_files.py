"""`zoo.tune_file`: load, tune, save and push as a run file says."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zoo.catalog.entry import RANDOM
from zoo.catalog.names import is_name
from zoo.errors import TuningError
from zoo.hub.adapters import is_adapter
from zoo.hub.publish import PushResult
from zoo.loading.load import load
from zoo.model import Model
from zoo.runs import arguments
from zoo.runs.completed import run_file
from zoo.runs.reading import checked, merged, read_run
from zoo.runs.schema import RunSettings
from zoo.tuning.defaults import defaults
from zoo.tuning.result import TuneResult

STEPS = 200  # of a run whose file says no budget


@dataclass(frozen=True)
class Finished:
    """A run of a file that has ended.

    Attributes:
        model: what was trained.
        result: of the run.
        saved: where the adapter or the model is.
        whole: whether that is a model, and not an adapter.
        metrics: of a model that began with random weights.
        pushed: what the Hub says, where the file has `[push]`.
    """

    model: Model
    result: TuneResult
    saved: Path
    whole: bool
    metrics: Mapping[str, float] | None = None
    pushed: PushResult | None = None


def tune_file(
    path: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    data: Any = None,
    settings: Mapping[str, Any] | None = None,
) -> TuneResult:
    """Load, tune and save as a run file says: what `zoo tune run.toml` does.

    The adapter is in `<out>/adapter` afterwards, a model that was trained in full in `<out>/model`. On the CPU, the
    file in a run's folder gives the same adapter again, byte for byte, in another folder.

    Args:
        path: the file; docs/tuning.md lists what it may hold. Paths in it are relative to the current folder.
        out: another folder than the file's.
        resume: go on from the last checkpoint in it.
        data: what to train on, instead of what the file says.
        settings: what counts instead of what the file says, by table: `{"tune": {"steps": 60}}`.

    Raises:
        TuningError: a key does not exist, or a value cannot be; nothing is left behind.
        ZooError: as `zoo.load`, `Model.tune` and `Model.save_adapter`.
    """
    over = dict(settings or {})
    if out is not None:
        over["out"] = os.fspath(out)
    return perform(checked(merged(read_run(Path(path)), over), str(path)), resume=resume, data=data).result


def perform(settings: RunSettings, *, resume: bool = False, data: Any = None) -> Finished:
    """Load, tune, save and push.

    Args:
        settings: of the run.
        resume: as `tune_file`.
        data: as `tune_file`.

    Raises:
        ZooError: as `tune_file`.
    """
    prepared = Prepared.of(settings, data)
    model = prepared.loaded()
    result = model.tune(prepared.data, out=prepared.out, resume=resume, **prepared.tuning(model))
    saved = prepared.saved
    if not result.main_process:
        return Finished(model, result, saved, prepared.whole)
    if prepared.whole:
        model.save(saved, digests=True) if prepared.fresh else model.save(saved)
    elif settings.format in (None, "peft"):
        model.save_adapter(saved)
    else:
        model.save_adapter(saved, format=settings.format)
    metrics = model.evaluate() if prepared.whole and prepared.fresh else None
    pushed = None
    if settings.push is not None:
        given = {key: value for key, value in settings.push.model_dump().items() if value is not None}
        pushed = model.push(given.pop("repository"), **given)
    return Finished(model, result, saved, prepared.whole, metrics, pushed)


def planned(settings: RunSettings, data: Any = None) -> str:
    """Return the completed run file of a run that does not take place: the model is built without its weights.

    Raises:
        ZooError: as `tune_file`, but for what only weights or data show.
    """
    prepared = Prepared.of(settings, data)
    model = prepared.loaded(device="meta")
    given = {**prepared.tuning(model), "out": prepared.out}
    tuning = defaults(model.module, model.entry, given)
    source = tuning.get("data") if prepared.data is None else prepared.data
    return run_file(model, source, tuning, device=settings.model.device)


@dataclass(frozen=True)
class Prepared:
    """A run's settings as arguments, checked as far as can be without a model.

    Attributes:
        settings: of the run.
        loading: the arguments of `zoo.load`.
        data: what is trained on.
        given: the arguments of `model.tune` that the file says.
        out: the run's folder.
        whole: whether every weight trains, and not an adapter.
    """

    settings: RunSettings
    loading: Mapping[str, Any]
    data: Any
    given: Mapping[str, Any]
    out: Path
    whole: bool

    @classmethod
    def of(cls, settings: RunSettings, data: Any) -> Prepared:
        """Return what `settings` ask for; `data` counts instead of theirs.

        Raises:
            TuningError: a value cannot be, or settings do not go together.
        """
        one = settings.model
        source = arguments.source_of(settings.data) if data is None else data
        loading, given = arguments.loading(settings), arguments.tuning(settings.tune)
        given["seed"] = given.get("seed", settings.seed or 0)
        loading["seed"] = loading.get("seed", given["seed"])
        whole = bool(one.full) or (one.weights == RANDOM and not one.lora and not one.adapters)
        if whole and settings.format not in (None, "peft"):
            raise TuningError(
                "format is of an adapter's files, and a model that is trained in full is written in its own"
            )
        if whole and settings.push is not None:
            raise TuningError("[push] is of adapters, and the model is trained in full: model.save writes it")
        loading["lora"] = None if whole else arguments.adapters(one)
        if one.lora is None and one.adapters is None and not is_name(one.name) and is_adapter(one.name, one.revision):
            loading["lora"] = None  # the name is an adapter's, which goes on
        loading = arguments.with_classes(loading, source)
        return cls(settings, loading, source, given, folder_of(settings), whole)

    @property
    def fresh(self) -> bool:
        """Whether the model begins with random weights."""
        return self.settings.model.weights == RANDOM

    @property
    def saved(self) -> Path:
        """Where the adapter or the model will be."""
        return self.out if self.whole and self.fresh else self.out / ("model" if self.whole else "adapter")

    def loaded(self, **over: Any) -> Model:
        """Return the model, which knows what of its run is no argument of `zoo.load`."""
        given = {**self.loading, **over}
        model = load(given.pop("name"), **given)
        if model.loaded is not None:
            push = self.settings.push
            file = {"format": self.settings.format, "push": None if push is None else push.model_dump()}
            model.loaded = replace(model.loaded, file=file)
        return model

    def tuning(self, model: Model) -> dict[str, Any]:
        """Return the arguments of `model.tune`; with random weights the registry may say for how long."""
        given = dict(self.given)
        if not {"steps", "minutes", "epochs"} & set(given) and not (self.fresh and "minutes" in model.entry.pretrain):
            given["steps"] = STEPS
        return given


def folder_of(settings: RunSettings) -> Path:
    """Return a run's folder."""
    return Path("runs") / file_name(settings.model.name) if settings.out is None else Path(settings.out)


def file_name(name: str) -> str:
    """Return a model's name as a file's: the last part of a path or repository, without odd characters."""
    last = Path(name).expanduser().name or Path(name).resolve().name
    return re.sub(r"[^\w.-]+", "-", last).strip(".-") or "model"
