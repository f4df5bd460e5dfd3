"""Options that several commands have: how a model is loaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from zoo.errors import QuantizationError

WIDTHS = ("4", "8", "16", "32")


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
