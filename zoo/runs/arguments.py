"""From a run's settings to the arguments of `zoo.load` and `model.tune`, and to the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from zoo.data.spec import Data, as_data
from zoo.errors import AdapterError, DataError, QuantizationError, TuningError, did_you_mean, shown
from zoo.methods.config import Adapter
from zoo.methods.kinds import KINDS
from zoo.plugin import hooks
from zoo.runs.reading import checked_table
from zoo.runs.schema import NO_LIMIT, DataSettings, ModelSettings, RunSettings, TuneSettings
from zoo.weights.scheme import Quantization, as_quantization

AUTO = "auto"  # of `classes`: as the data name them
RANK = 8  # of a new adapter where nothing is said


def loading(settings: RunSettings) -> dict[str, Any]:
    """Return the arguments of `zoo.load`, its name included, but for `lora`; `classes` may be "auto".

    Raises:
        TuningError: a value cannot be; it is named.
    """
    one = settings.model
    given = {key: getattr(one, key) for key in ("name", "weights", "revision", "keep", "device", "dtype", "classes")}
    given |= {"task": one.task, "channels": one.channels, "bits": _bits(one)}
    given["image_size"] = tuple(one.image_size) if isinstance(one.image_size, list) else one.image_size
    given["seed"] = settings.seed if one.seed is None else one.seed
    if one.calibrate not in (None, False):
        given["calibrate"] = True if one.calibrate is True else source_of(one.calibrate, "model.calibrate")
    return {key: value for key, value in given.items() if value is not None}


def adapters(one: ModelSettings) -> Any:
    """Return `lora=` of `zoo.load`: a rank, a place, a configuration, a dict of them, or None to train every weight.

    Raises:
        TuningError: a field of an adapter does not exist or has a value that cannot be.
    """
    if one.full:
        return None
    if one.adapters:
        return {name: adapter(given, f"model.adapters.{name}") for name, given in one.adapters.items()}
    return adapter(RANK if one.lora is None else one.lora, "model.lora")


def adapter(given: Any, path: str) -> Any:
    """Return one adapter: a rank or a place as it is, a table as the configuration of its kind.

    Raises:
        TuningError: a field does not exist or has a value that cannot be.
    """
    if not isinstance(given, Mapping):
        if isinstance(given, int) and given < 1:
            raise TuningError(f"{path}: expected a rank of at least 1, got {given}")
        return given
    values = dict(given)
    kind = values.pop("kind", "lora")
    config = kind_of(kind, path)
    known = [field.name for field in fields(config)]  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            raise TuningError(
                f"{path}.{name} is no field of the kind {kind!r}.{did_you_mean(name, known)} Its fields are "
                f"{', '.join(known)}."
            )
    try:
        return config(**values)
    except (AdapterError, TypeError) as error:
        raise TuningError(f"{path}: {error}") from error


def kind_of(kind: Any, path: str = "kind") -> type[Adapter]:
    """Return the class of a kind of adapters, zoo's own or a plugin's.

    Raises:
        TuningError: there is no such kind.
    """
    if isinstance(kind, str) and kind in KINDS:
        return KINDS[kind].config
    found = _of_plugin(kind) if isinstance(kind, str) else None
    if found is None:
        raise TuningError(
            f"{path}.kind: expected {', '.join(KINDS)}, or a plugin's kind, got {shown(kind)}."
            f"{did_you_mean(str(kind), KINDS)}"
        )
    return found


def _of_plugin(kind: str) -> type[Adapter] | None:
    """Return the class of a plugin's kind, which its plugin names by reading the shortest configuration it takes."""
    for more in ({}, {"targets": "all"}, {"target_modules": "all"}):
        try:
            found = hooks.adapter_config(kind, {"peft_type": kind.upper(), **more})
        except AdapterError:
            continue
        return None if found is None else type(found)
    return None


def source_of(given: DataSettings | Mapping[str, Any] | str, path: str = "data") -> Any:
    """Return the data that a table describes: its source, a `zoo.Data` around it, or None for the plugin's own.

    Raises:
        TuningError: a value cannot be.
    """
    if isinstance(given, str):
        return given
    if isinstance(given, Mapping):
        given = checked_table(DataSettings, given, path)
    if not isinstance(given, DataSettings):
        raise TuningError(f"{path}: expected a name, a path or a table, got {shown(given)}")
    if given.python is not None:
        raise TuningError(
            f"{path}: the run was given {given.python} in Python, which a file cannot name: give data= to "
            f"zoo.tune_file, or {path}.source in the file"
        )
    values = {name: value for name, value in given.model_dump().items() if value is not None}
    source = values.pop("source", None)
    if not values:
        return source
    try:
        return Data(source, **values)
    except DataError as error:
        raise TuningError(f"{path}: {error}") from error


def with_classes(given: dict[str, Any], data: Any) -> dict[str, Any]:
    """Return arguments of `zoo.load` with the classes of the data in the place of `auto`.

    Raises:
        TuningError: there are no data to read them from.
        DataError: the data have no classes.
    """
    if given.get("classes") != AUTO:
        return given
    if data is None:
        raise TuningError(f'classes = "{AUTO}" reads the names from the data: give data, or the classes')
    from zoo.data.labelled import classes_of
    from zoo.data.labelled_texts import classes_in
    from zoo.data.letters import PREFIX
    from zoo.data.sources import read_table

    found = as_data(data)
    pictures = str(found.source).startswith(PREFIX) or "image" in read_table(found).columns
    return {**given, "classes": list(classes_of(found, kind="image") if pictures else classes_in(found))}


def tuning(one: TuneSettings) -> dict[str, Any]:
    """Return the arguments of `model.tune` that are given.

    Raises:
        TuningError: a value cannot be.
    """
    given = {name: value for name, value in one.model_dump().items() if value is not None}
    if "betas" in given:
        given["betas"] = tuple(given["betas"])
    if isinstance(limit := given.get("grad_clip"), str):
        if limit != NO_LIMIT:
            raise TuningError(f'tune.grad_clip: expected a number above 0, or "{NO_LIMIT}", got {limit!r}')
        given["grad_clip"] = None
    elif limit is not None and not limit > 0:
        raise TuningError(f"tune.grad_clip: expected a number above 0, got {limit!r}")
    if "eval_data" in given:
        given["eval_data"] = source_of(given["eval_data"], "tune.eval_data")
    return given


def _bits(one: ModelSettings) -> Any:
    """Return `bits=` of `zoo.load`, checked."""
    path, given = "model.bits", one.bits
    try:
        if one.quantization is not None:
            path = "model.quantization"
            values = {name: value for name, value in one.quantization.model_dump().items() if value is not None}
            given = Quantization(**{**values, "overrides": tuple(map(tuple, values.get("overrides", ())))})
        as_quantization(given, one.keep or ())
    except (QuantizationError, TypeError) as error:
        raise TuningError(f"{path}: {error}") from error
    return given
