"""The options of `zoo tune`: every argument of `model.tune` that is no function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

# What `zoo.tuning` has, which is not imported for a help.
SCHEDULES = ("cosine", "wsd")
PRECISIONS = ("no", "bf16", "fp16")
COUNT = click.IntRange(min=1)
POSITIVE = click.FloatRange(min=0, min_open=True)


class GradClip(click.ParamType):
    """A number, or `none`."""

    name = "norm"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Return what the help shows."""
        return "NORM|none"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a number, or "none".

        Raises:
            click.BadParameter: it is neither.
        """
        return value if value == "none" else POSITIVE.convert(value, param, ctx)


_TUNING = (
    click.option("--steps", type=COUNT, help="Optimizer steps [default: 200]. More than a finished run had extend it."),
    click.option("--minutes", type=POSITIVE, help="How long to train, instead of --steps."),
    click.option("--epochs", type=POSITIVE, help="Passes over the data, instead of --steps."),
    click.option("--batch-size", type=COUNT, help="Items per batch [default: the plugin's]."),
    click.option("--gradient-accumulation-steps", type=COUNT, help="Batches per step [default: 1]."),
    click.option("--lr", type=POSITIVE, help="The highest learning rate."),
    click.option("--schedule", type=click.Choice(SCHEDULES), help="Of the learning rate [default: cosine]."),
    click.option("--rates", metavar="KIND", help="Of the factors: matched, plain or lora+16 [default: matched]."),
    click.option("--warmup", type=click.FloatRange(min=0), help="Its linear start: a share or steps [default: .05]."),
    click.option("--optimizer", metavar="NAME", help="adamw, adamw8bit, lion8bit, sgd, … [default: adamw]."),
    click.option(
        "--optimizer-option",
        "optimizer_options",
        metavar="KEY=VALUE",
        multiple=True,
        help="One of the optimizer's own, such as momentum=0.9; repeatable.",
    ),
    click.option("--betas", type=click.FloatRange(0, 1, max_open=True), nargs=2, help="Adam's [default: .9 .999]."),
    click.option("--weight-decay", type=click.FloatRange(min=0), help="The optimizer's [default: 0]."),
    click.option("--grad-clip", type=GradClip(), help="Largest norm of the gradient [default: 1]."),
    click.option("--ema-decay", type=click.FloatRange(0, 1, max_open=True), help="Average the weights, e.g. .99."),
    click.option("--precision", type=click.Choice(PRECISIONS), help="Autocast [default: accelerate's setting]."),
    click.option(
        "--gradient-checkpointing/--no-gradient-checkpointing",
        default=None,
        help="Compute activations twice instead of keeping them [default: no].",
    ),
    click.option("--eval-every", type=COUNT, help="Steps between evaluations; the best weights are kept."),
    click.option("--eval-data", metavar="WHAT", help="To evaluate on [default: what --data hold out]."),
    click.option("--metric", metavar="NAME", help="Which figure decides what is best [default: the first]."),
    click.option("--patience", type=COUNT, help="Stop after so many evaluations without a better one."),
    click.option("--keep-best/--keep-last", default=None, help="Which weights stay [default: the best]."),
    click.option("--save-every", type=COUNT, help="Steps between checkpoints [default: 100]."),
    click.option("--log-every", type=COUNT, help="Steps between lines of progress [default: 10]."),
    click.option("--quiet/--no-quiet", default=None, help="Show no progress."),
    click.option("--tracker", "trackers", multiple=True, metavar="NAME", help="tensorboard, wandb, mlflow, …; or all."),
    click.option("--project", metavar="NAME", help="What trackers call the project [default: zoo]."),
    click.option("--run-name", metavar="NAME", help="What trackers call the run [default: its folder's name]."),
    click.option("--report/--no-report", default=None, help="Write report.html [default: yes]."),
    click.option("--extended", type=POSITIVE, multiple=True, metavar="N", help="Budgets that the run had before."),
)


def tuning_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that are arguments of `model.tune`."""
    for option in reversed(_TUNING):
        function = option(function)
    return function
