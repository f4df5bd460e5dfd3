"""Options of commands that load a model: how it is loaded, and with which head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from zoo.bounded.sizes import size_of
from zoo.catalog.head import TASKS
from zoo.errors import QuantizationError

AUTO = "auto"
WIDTHS = ("4", "8", "16", "32")
RANK = 8  # of a new adapter where none is given


class Bits(click.ParamType):
    """A width, or an average to spend such as `auto:4.5`; the value is what `zoo.load(bits=)` takes."""

    name = "bits"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Return what the help shows."""
        return f"[{'|'.join(WIDTHS)}|auto:N]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """Return a width as a number, an average as it is.

        Raises:
            click.BadParameter: it is neither.
        """
        text = str(value)
        if text in WIDTHS:
            return int(text)
        from zoo.weights.scheme import as_quantization

        try:
            as_quantization(text)
        except QuantizationError:
            widths = ", ".join(map(repr, WIDTHS))
            self.fail(f"{text!r} is not one of {widths}, nor an average from 4 to 32 such as 'auto:4.5'.", param, ctx)
        return text


def bits_option(text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the option --bits with this help."""
    return click.option("--bits", type=Bits(), help=text)


keep_option = click.option(
    "--keep",
    metavar="SUFFIX",
    multiple=True,
    help="Weights that stay in full precision, such as lm_head; may be given several times.",
)
keep_or_checkpoints_option = click.option(
    "--keep",
    metavar="SUFFIX|N",
    multiple=True,
    help="Weights that stay in full precision, such as lm_head; a number: how many checkpoints stay [default: 2].",
)


class Targets(click.ParamType):
    """Ends of weights' names with commas, one regular expression over whole names, or `all`."""

    name = "targets"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Return what the help shows."""
        return "all|A,B,…|REGEX"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return "all", a regular expression, or a list of names' ends.

        Raises:
            click.BadParameter: a name is empty.
        """
        if not isinstance(value, str) or value == "all" or set(value) & set("*+?()[]{}|^$\\"):
            return value
        names = [name.strip() for name in value.split(",")]
        if not all(names):
            self.fail(f"{value!r} has an empty name: give A,B, a regular expression, or all", param, ctx)
        return names


def targets_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option --targets to a command."""
    return click.option(
        "--targets",
        type=Targets(),
        help="Weights of a new adapter: ends of their names, or a regular expression [default: the model's own].",
    )(function)


def adapter_fields(lora: str | None, targets: Any) -> Any:
    """Return --lora and --targets as a run file has them: a rank, a place, the fields of a `zoo.LoRA`, or None.

    Raises:
        click.UsageError: there are targets, and --lora is no rank of a new adapter.
    """
    rank = int(lora) if lora is not None and lora.isdecimal() else None
    if targets is None:
        return lora if rank is None else rank
    if rank is None and lora is not None:
        raise click.UsageError(f"--targets are a new adapter's, and --lora {lora} is a saved one, which has its own")
    return {"rank": rank or RANK, "alpha": 2 * (rank or RANK), "targets": targets}


def adapter_of(lora: str | None, targets: Any) -> Any:
    """Return what `zoo.load(lora=)` takes for --lora and --targets.

    Raises:
        click.UsageError: as `adapter_fields`.
    """
    found = adapter_fields(lora, targets)
    if not isinstance(found, dict):
        return found
    import zoo

    return zoo.LoRA(**found)


class CacheSize(click.ParamType):
    """How much memory dense weights may take: `auto`, `dense`, `none`, or a size such as 2GB."""

    name = "cache"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Return what the help shows."""
        return "auto|dense|none|SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | None:
        """Return what `cache` of `model.sample` takes.

        Raises:
            click.BadParameter: it is none of these.
        """
        if value == "none":
            return None
        if value not in ("auto", "dense") and size_of(str(value)) is None:
            self.fail(f"{value!r} is not auto, dense or none, nor a size such as 2GB", param, ctx)
        return str(value)


def cache_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option --cache to a command that runs a model many times."""
    return click.option(
        "--cache",
        type=CacheSize(),
        default=AUTO,
        help="Memory for dense forms of quantized weights, which are freed at the end [default: auto, 512 MiB].",
    )(function)


def given_cache(cache: str | None) -> dict[str, Any]:
    """Return the argument `cache` of a verb, if it is not the usual."""
    return {} if cache == AUTO else {"cache": cache}


_MODEL_OPTIONS = (
    click.option("--weights", metavar="WHERE", help="Other weights: a Hub repository, a local folder, or random."),
    click.option("--revision", metavar="SHA", help="The Hub repository's commit."),
    bits_option("Bits per weight, or on average over the model [default: the checkpoint's]."),
    keep_option,
    click.option("--device", metavar="NAME", help="cpu, cuda, mps [default: the best there is]."),
)


def model_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of every command that loads a model."""
    for option in reversed(_MODEL_OPTIONS):
        function = option(function)
    return function


def tuned_model_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a command that loads a model and writes checkpoints: `--keep` is of both."""
    for option in reversed(_MODEL_OPTIONS):
        function = (keep_or_checkpoints_option if option is keep_option else option)(function)
    return function


def without_number(keep: tuple[str, ...]) -> tuple[tuple[str, ...], int | None]:
    """Return the names in `--keep`, and the number in it, if there is one.

    Raises:
        click.BadParameter: the number is 0, or there are several.
    """
    numbers = [int(word) for word in keep if word.isdecimal()]
    if len(numbers) > 1 or 0 in numbers:
        raise click.BadParameter("expected one number of checkpoints, at least 1", param_hint="'--keep'")
    return tuple(word for word in keep if not word.isdecimal()), next(iter(numbers), None)


class Classes(click.ParamType):
    """Names with commas, how many classes there are, or `auto`: as the data name them."""

    name = "classes"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Return what the help shows."""
        return "auto|A,B,…|N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return "auto", a number, or a list of names.

        Raises:
            click.BadParameter: a name is empty.
        """
        text = str(value).strip()
        if text == AUTO:
            return AUTO
        if text.isdecimal():
            return int(text)
        names = [name.strip() for name in text.split(",")]
        if not all(names):
            self.fail(f"{text!r} has an empty name: give A,B or a number, or {AUTO}", param, ctx)
        return names


class ImageSize(click.ParamType):
    """Pixels of an edge, or HEIGHTxWIDTH."""

    name = "image size"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Return what the help shows."""
        return "N|HxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | tuple[int, int]:
        """Return a number, or (height, width).

        Raises:
            click.BadParameter: it is neither.
        """
        parts = str(value).lower().split("x")
        if len(parts) > 2 or not all(part.isdecimal() for part in parts):
            self.fail(f"{value!r} is neither a number of pixels nor HEIGHTxWIDTH", param, ctx)
        return int(parts[0]) if len(parts) == 1 else (int(parts[0]), int(parts[1]))


_HEAD_OPTIONS = (
    click.option("--classes", type=Classes(), help="A new head: its classes by name, how many, or those of the data."),
    click.option("--task", type=click.Choice(list(TASKS)), help="What the head is for [with --classes: classify]."),
    click.option("--image-size", type=ImageSize(), help="Of the images that the model is to take."),
    click.option("--channels", type=click.IntRange(min=1), help="Of the images that the model is to take."),
)


def head_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a new head, which are arguments of `zoo.load` too."""
    for option in reversed(_HEAD_OPTIONS):
        function = option(function)
    return function


class Column(click.ParamType):
    """What a column is and its name, such as text=review."""

    name = "column"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Return (what, name).

        Raises:
            click.BadParameter: it is of another form.
        """
        what, equals, name = str(value).partition("=")
        if not equals or not what or not name:
            self.fail(f"{value!r} is not of the form WHAT=NAME, such as text=review", param, ctx)
        return what, name


def column_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option --column to a command, as the argument `columns`: pairs."""
    return click.option(
        "--column",
        "columns",
        type=Column(),
        multiple=True,
        metavar="WHAT=NAME",
        help="What a column is, such as text=review; may be given several times.",
    )(function)


def with_columns(data: str | None, columns: tuple[tuple[str, str], ...]) -> Any:
    """Return data with the names of their columns, where some are given.

    Raises:
        click.UsageError: there are no data that have columns.
    """
    if not columns:
        return data
    if data is None:
        raise click.UsageError("--column names columns of the data: give --data")
    from zoo.data.spec import Data

    return Data(data, columns=dict(columns))
