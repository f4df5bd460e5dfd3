"""The file of a run that takes place: every setting as it is, defaults included."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from zoo._version import __version__
from zoo.data.spec import Data
from zoo.errors import one_line
from zoo.methods.config import Adapter
from zoo.runs.schema import NO_LIMIT, TuneSettings
from zoo.runs.toml_text import written
from zoo.tuning.settings import described

NAME = "run.toml"


@dataclass(frozen=True)
class Loaded:
    """What a model was made of by `zoo.load`.

    Attributes:
        arguments: those of `zoo.load` that were given.
        configs: the adapters that the model had then, by name.
        weights: those that were active.
        file: what the run file of this model says beside model, data and tuning.
    """

    arguments: Mapping[str, Any]
    configs: Mapping[str, Adapter]
    weights: Mapping[str, float]
    file: dict[str, Any] = field(default_factory=dict)


def run_file(model: Any, data: Any, tuning: Mapping[str, Any], device: str | None = None) -> str:
    """Return the text of a run's `run.toml`.

    Args:
        model: the `zoo.Model` that is going to train.
        data: what it is trained on.
        tuning: the arguments of `model.tune`, with what zoo and the plugin have chosen.
        device: where the model is going to be, if it is not there yet; None: where it is.
    """
    loaded: Loaded | None = model.loaded
    out = tuning.get("out")
    table, more = _tuning(tuning)
    content = {
        "out": None if out is None else os.fspath(out),
        **({key: loaded.file.get(key) for key in ("format",)} if loaded else {}),
        "model": _model(model, loaded),
        "data": data_table(data) or None,
        "tune": table,
        **({"push": loaded.file["push"]} if loaded and loaded.file.get("push") else {}),
    }
    if model.device.type == "meta":
        content["model"]["device"] = device
        content["model"].pop("dtype", None)
    remarks = (*more, *_unsaid(model, loaded))
    while True:
        try:
            return _head(content["out"], remarks) + written(content)
        except (ValueError, UnicodeError):  # what has no form in TOML, such as half a character in a path
            content = _plain(content)


def _head(out: str | None, remarks: tuple[str, ...]) -> str:
    again = f"{out or 'runs/NAME'}"
    place = shlex.quote(one_line(os.path.join(again, NAME)))  # noqa: PTH118
    lines = [
        f"A run of zoo {__version__}. The same again, in a new folder:",
        f"    zoo tune {place} --out {shlex.quote(one_line(again.rstrip('/') + '-again'))}",
        "[model] has the arguments of zoo.load, [tune] those of model.tune. Paths are relative to where that is typed.",
        *remarks,
    ]
    return "".join(f"# {one_line(line) if not line.startswith(' ') else line}\n" for line in lines) + "\n"


def _model(model: Any, loaded: Loaded | None) -> dict[str, Any]:
    given = dict(loaded.arguments) if loaded else {}
    entry = model.entry
    table: dict[str, Any] = {"name": str(given.get("name") or entry.name)}
    for key in ("weights", "revision"):
        table[key] = given.get(key)
    if table["revision"] is None and "/" in table["name"]:
        table["revision"] = model.identity()["model"]["base"]["commit"]
    table |= {"device": model.device.type, "dtype": str(model.dtype).removeprefix("torch.")}
    table["seed"] = given.get("seed")
    table["calibrate"] = given.get("calibrate")
    head = entry.head
    if head is not None:
        classes = list(head.names) or head.count or None
        size = None if head.image_size is None else list(head.image_size)
        table |= {"classes": classes, "task": head.task, "image_size": size, "channels": head.channels}
    if model.scheme is not None and given.get("bits") is not None:
        table["quantization"] = _quantization(model.scheme)
    return {**table, **_adapters(model, given)}


def _quantization(scheme: Any) -> dict[str, Any]:
    table = {one.name: getattr(scheme, one.name) for one in fields(scheme)}
    table["keep"] = list(scheme.keep)
    table["overrides"] = [[name, {**_quantization(one)}] for name, one in scheme.overrides]
    return {name: value for name, value in table.items() if value is not None and value != []}


def _adapters(model: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the active adapters: as a place where they are saved ones, else by every field."""
    lora, configs = given.get("lora"), model.adapter_set.configs
    places: Mapping[str, Any] = lora if isinstance(lora, Mapping) else {"default": lora}
    tables = {
        name: os.fspath(places[name]) if isinstance(places.get(name), str | os.PathLike) else _adapter(configs[name])
        for name in configs
        if name in model.adapter_set.weights
    }
    if "adapter" in given:  # the name is an adapter's, which comes with its base
        tables.pop("default", None)
        return {"adapters": tables} if tables else {}
    if list(tables) == ["default"]:
        return {"lora": tables["default"]}
    return {"adapters": tables} if tables else {"full": True}


def _adapter(config: Adapter) -> dict[str, Any]:
    values = {one.name: getattr(config, one.name) for one in fields(config)}  # type: ignore[arg-type]
    return {"kind": config.kind, **{name: value for name, value in values.items() if value is not None and value != {}}}


def data_table(data: Any) -> Any:
    """Return data as a table of a run file has them; True and False, of a calibration, stay as they are."""
    if data is None or isinstance(data, bool):
        return {} if data is None else data
    if not isinstance(data, Data):
        return {"source": os.fspath(data)} if isinstance(data, str | os.PathLike) else {"python": described(data)}
    usual = {
        one.name: one.default_factory() if one.default_factory is not MISSING else one.default for one in fields(Data)
    }
    table = {one.name: getattr(data, one.name) for one in fields(Data) if one.name != "source"}
    told = {name: value for name, value in table.items() if value is not None and value != usual[name]}
    return {**data_table(data.source), **(told or {"hold_out": data.hold_out})}


def _tuning(given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return `[tune]`, and what it cannot say."""
    table = {name: given[name] for name in TuneSettings.model_fields if name in given}
    remarks = []
    if table.get("grad_clip") is None:
        table["grad_clip"] = NO_LIMIT
    if table.get("eval_data") is not None:
        told = data_table(table["eval_data"])
        table["eval_data"] = told["source"] if list(told) == ["source"] else told
    if trackers := table.get("trackers"):
        table["trackers"] = [one for one in trackers if isinstance(one, str)]
        if len(table["trackers"]) < len(trackers):
            remarks.append("A tracker of Python's was given too, which a file cannot hold.")
    given_too = [name for name in ("callbacks", "on_step") if given.get(name)]
    remarks += [f"{name} was given in Python, which a file cannot hold." for name in given_too]
    if not isinstance(table.get("optimizer"), str | None):
        table["optimizer"] = None
        remarks.append("An optimizer of Python's was given, which a file cannot hold.")
    table["optimizer_options"] = table.get("optimizer_options") or None
    if (count := given.get("processes", 1)) > 1:
        remarks.append(f"It ran in {count} processes: torchrun --nproc_per_node {count} -m zoo tune …")
    table["extended"] = [_whole(one) for one in table.get("extended") or ()] or None
    table["warmup"] = _whole(table["warmup"])
    return table, remarks


def _whole(value: float) -> float:
    """Return a number of steps without a decimal point."""
    return int(value) if value >= 1 and value == int(value) else value


def _unsaid(model: Any, loaded: Loaded | None) -> list[str]:
    """Return what the file cannot say of the model."""
    if loaded is None:
        return ["The model was made in Python, not by zoo.load: this file is no full account of it."]
    found = []
    changed = loaded.configs != dict(model.adapter_set.configs) or loaded.weights != dict(model.adapter_set.weights)
    if changed or model.adapter_set.merged or model.tuned:
        found.append("The model was changed in Python after it was loaded, which this file does not say.")
    if loaded.arguments.get("seed") is None and any(
        not isinstance(one, str) for one in (loaded.arguments.get("lora"),) if one is not None
    ):
        found.append("The model was loaded without a seed, so that its adapter begins with other random values.")
    return found


def _plain(value: Any) -> Any:
    """Return settings in which all that TOML has no form for is left out."""
    if isinstance(value, Mapping):
        return {
            str(key).encode(errors="replace").decode(): _plain(one)
            for key, one in value.items()
            if isinstance(one, bool | int | float | str | Mapping | list | tuple)
        }
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value.encode(errors="replace").decode() if isinstance(value, str) else value
