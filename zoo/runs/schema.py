"""What a run file holds: `[model]` has the arguments of `zoo.load`, `[tune]` those of `model.tune`.

A field that is not given is None here; `zoo.load`, `model.tune` and the plugin then choose. Values are checked as far
as can be without a model and data.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from zoo.catalog.head import TASKS
from zoo.errors import TuningError, did_you_mean
from zoo.tuning.optimizers import NAMES, canonical
from zoo.tuning.processes import PRECISIONS
from zoo.tuning.settings import MOST, MOST_RATE, SCHEDULES, check_rates

NO_LIMIT = "none"  # of `grad_clip`: TOML has no null


def _one_of(*names: str) -> BeforeValidator:
    """Check that a value is one of some names."""

    def check(value: Any) -> Any:
        if value is not None and value not in names:
            raise ValueError(f"one of {', '.join(names)}.{did_you_mean(str(value), names)}")
        return value

    return BeforeValidator(check)


def _form(said: str, *kinds: type) -> BeforeValidator:
    """Check that a value is of one of some types, which `said` names."""

    def check(value: Any) -> Any:
        if value is not None and (not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)):
            raise ValueError(said)
        return value

    return BeforeValidator(check)


def _rates(value: Any) -> Any:
    """Check that a value is one that `rates` of `model.tune` may have."""
    if value is not None:
        try:
            check_rates(value)
        except TuningError as error:
            raise ValueError(str(error).removeprefix("expected rates as ")) from error
    return value


def _optimizer(value: Any) -> Any:
    """Return the name of an optimizer as zoo spells it."""
    if value is None:
        return None
    try:
        return canonical(value)
    except TuningError:
        near = did_you_mean(str(value).lower(), NAMES)
        raise ValueError(f"one of {', '.join(NAMES)}.{near}") from None


Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**64)]
Text = Annotated[str, Field(min_length=1)]
Lora = Annotated[Any, _form("a rank, the place of a saved adapter, or a table of an adapter's fields", int, str, dict)]
Source = Annotated[Any, _form("a name, a path, or a table with source and how it is read", str, dict)]


class Table(BaseModel):
    """A table of a run file: no other keys than its fields, and no value of another type."""

    model_config = ConfigDict(extra="forbid", strict=True)


class QuantizationSettings(Table):
    """`[model.quantization]`: the fields of `zoo.Quantization`."""

    bits: int = 4
    scheme: Text | None = None
    block_size: int | None = None
    double: bool | None = None
    keep: list[Text] | None = None
    overrides: list[list[Any]] | None = None
    mixed: bool | None = None
    average: float | None = None


class ModelSettings(Table):
    """`[model]`: the arguments of `zoo.load`.

    Attributes:
        name: of the registry, a Hub repository, or a folder.
        quantization: instead of `bits`, all that `zoo.Quantization` can say.
        lora: a rank (default 8), the place of a saved adapter, or a table: `kind` ("lora" by default) and its fields.
        adapters: instead of `lora`, several of them by name.
        full: train every weight, without an adapter.
        calibrate: true for the plugin's own data, or data as in `[data]`.
        classes: names, how many, or "auto": as the data name them.
    """

    name: Text
    weights: Text | None = None
    revision: Text | None = None
    bits: Annotated[Any, _form('4, 8, 16, 32, "auto:4.5" or a table of suffixes', int, str, dict)] = None
    quantization: QuantizationSettings | None = None
    keep: list[Text] | None = None
    lora: Lora = None
    adapters: dict[str, Lora] | None = None
    full: bool | None = None
    device: Text | None = None
    dtype: Text | None = None
    seed: Seed | None = None
    calibrate: Annotated[Any, _form("true, or data", bool, str, dict)] = None
    classes: Annotated[Any, _form('names, how many, or "auto"', int, str, list)] = None
    task: Annotated[str | None, _one_of(*TASKS)] = None
    image_size: Annotated[Any, _form("pixels of an edge, or [height, width]", int, list)] = None
    channels: Count | None = None

    @model_validator(mode="after")
    def _apart(self) -> ModelSettings:
        given = [name for name in ("lora", "adapters", "full") if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"one of lora, adapters and full, got {' and '.join(given)}")
        if self.bits is not None and self.quantization is not None:
            raise ValueError("bits or quantization, got both")
        return self


class DataSettings(Table):
    """`[data]`: the fields of `zoo.Data`. `python` is what a file cannot name: `zoo.tune_file(data=)` gives it."""

    source: Text | None = None
    python: str | None = None
    columns: dict[str, str] | None = None
    classes: Annotated[Any, _form("a list of names, or a table of names", list, dict)] = None
    hold_out: Share | None = None
    group: Text | None = None
    seed: Seed | None = None
    split: Text | None = None
    broken: Annotated[str | None, _one_of("skip", "refuse")] = None


class TuneSettings(Table):
    """`[tune]`: the arguments of `model.tune`; at most one of `steps`, `minutes` and `epochs`."""

    steps: Annotated[int, Field(ge=1, le=MOST["steps"])] | None = None
    minutes: Positive | None = None
    epochs: Positive | None = None
    batch_size: Annotated[int, Field(ge=1, le=MOST["batch_size"])] | None = None
    lr: Annotated[float, Field(gt=0, le=MOST_RATE)] | None = None
    seed: Seed | None = None
    warmup: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    schedule: Annotated[str | None, _one_of(*SCHEDULES)] = None
    rates: Annotated[str | None, BeforeValidator(_rates)] = None
    extended: list[Positive] | None = None
    grad_clip: Annotated[Any, _form(f'a number above 0, or "{NO_LIMIT}"', int, float, str)] = None
    optimizer: Annotated[str | None, BeforeValidator(_optimizer)] = None
    optimizer_options: dict[str, Any] | None = None
    weight_decay: Annotated[float, Field(ge=0, le=MOST_RATE)] | None = None
    betas: Annotated[list[Share], Field(min_length=2, max_length=2)] | None = None
    gradient_accumulation_steps: Annotated[int, Field(ge=1, le=MOST["gradient_accumulation_steps"])] | None = None
    ema_decay: Share | None = None
    precision: Annotated[str | None, _one_of(*PRECISIONS)] = None
    gradient_checkpointing: bool | None = None
    eval_every: Count | None = None
    eval_data: Source = None
    metric: Text | None = None
    patience: Count | None = None
    keep_best: bool | None = None
    save_every: Count | None = None
    keep: Count | None = None
    log_every: Count | None = None
    quiet: bool | None = None
    trackers: list[Text] | None = None
    project: Text | None = None
    run_name: Text | None = None
    report: bool | None = None

    @model_validator(mode="after")
    def _one_budget(self) -> TuneSettings:
        given = [name for name in ("steps", "minutes", "epochs") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"one of steps, minutes and epochs, got {' and '.join(given)}")
        return self


class PushSettings(Table):
    """`[push]`: the arguments of `model.push`: where the adapter goes when the run is finished."""

    repository: Text
    private: bool | None = None
    branch: Text | None = None
    message: Text | None = None


class RunSettings(Table):
    """A run file.

    Attributes:
        seed: of the model and of the run, unless `[model]` or `[tune]` say another.
        out: the run's folder; default `runs/NAME`.
        format: whose files the adapter is written as.
        model: what is loaded.
        data: what it is trained on; a text is short for `source`. Nothing: the plugin's own.
        tune: how.
        push: where the adapter is pushed afterwards.
    """

    seed: Seed | None = None
    out: Text | None = None
    format: Literal["peft", "diffusers", "kohya"] | None = None
    model: ModelSettings
    data: DataSettings = DataSettings()
    tune: TuneSettings = TuneSettings()
    push: PushSettings | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, given: Any) -> Any:
        """Let a text stand for a table whose first field it is."""
        first = {"model": "name", "data": "source", "push": "repository"}
        if not isinstance(given, dict):
            return given
        return {
            key: {first[key]: value} if key in first and isinstance(value, str) else value
            for key, value in given.items()
        }
