"""The command `zoo sensitivity`: what quantizing each weight costs, as a table and a plot."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.catalog.names import is_name
from zoo.cli.names import MODEL
from zoo.cli.options import model_options
from zoo.cli.output import Command, json_option, note, print_json, print_table, progress_line

if TYPE_CHECKING:
    from zoo.loading.sensitivity import Sensitivity
    from zoo.weights.scheme import Quantization

AVERAGE = "auto:4.5"
BAR = 20  # characters of the longest bar
PLOTTED = 40  # weights at most
PLOTS = (".png", ".svg", ".pdf")
COLOURS = {4: "#c0504d", 8: "#4f81bd", 16: "#9bbb59"}
WIDE, PLAIN = "#e6b0ae", "#808080"


@click.command(
    cls=Command,
    examples="""
    zoo sensitivity bert
    zoo sensitivity gpt --data text:licences --bits auto:5 --plot gpt.png
    zoo sensitivity ddpm --data letters:serif --json | jq '.weights[0]'
    """,
)
@click.argument("name", type=MODEL)
@click.option(
    "--data", metavar="WHAT", help="A folder, a file or a name such as letters:serif [default: the plugin's]."
)
@click.option("--batches", type=click.IntRange(min=1), default=16, show_default=True, help="How many to measure on.")
@click.option("--batch-size", type=click.IntRange(min=1), default=4, show_default=True, help="Items per batch.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the data's order and what the loss draws.")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="A picture to write: .png, .svg or .pdf.")
@model_options
@json_option
def sensitivity(
    name: str,
    data: str | None,
    batches: int,
    batch_size: int,
    seed: int,
    plot: Path | None,
    bits: int | str | None,
    keep: tuple[str, ...],
    as_json: bool,
    **loading: Any,
) -> None:
    """Show what quantizing each weight costs the loss, and what an average makes of it.

    The costs come from the Fisher information of a few batches, so the model is loaded in full precision. --bits is the
    average to spend [default: auto:4.5].
    """
    if isinstance(bits, int):
        raise click.BadParameter(f"expected an average such as {AVERAGE!r}, got {bits}", param_hint="'--bits'")
    if plot is not None and plot.suffix.lower() not in PLOTS:
        raise click.BadParameter(f"expected a name in {', '.join(PLOTS)}, got {str(plot)!r}", param_hint="'--plot'")
    from zoo.catalog import registry

    if is_name(name):
        registry.find(name)  # an unknown name should not wait for torch
    import torch

    import zoo
    from zoo.loading.device import pick_dtype
    from zoo.loading.sensitivity import loss_costs
    from zoo.loading.sensitivity import sensitivity as spent
    from zoo.weights.scheme import as_quantization

    bits = bits or AVERAGE
    scheme = as_quantization(bits, keep)
    assert scheme is not None
    model = zoo.load(name, dtype=torch.float32, **loading)
    dtype = pick_dtype(None, model.device)
    with progress_line("measuring") as report:
        costs = loss_costs(
            model, data, scheme, dtype=dtype, batches=batches, batch_size=batch_size, seed=seed, report=report
        )
    found = spent(model, scheme, costs, dtype=dtype)
    if plot is not None:
        from zoo.storage.atomic import write_bytes

        write_bytes(plot, draw(name, bits, found, plot.suffix.lower()))
    if as_json:
        facts = {"name": name, "data": data, "batches": batches, "batch_size": batch_size, "seed": seed, "bits": bits}
        print_json({**facts, **asdict(found), "plot": plot})
        return
    columns = ("weight", "shape", "values", "4 bit costs", "8 bit costs", "share", "", "gets")
    print_table(columns, table(found))
    part = found.cost / found.uniform
    note(f"{found.average:.2f} bits on average cost {part:.1%} of what 4 bit for all of these costs")
    if plot is not None:
        note(f"plot: {plot}")


def table(found: Sensitivity) -> list[tuple[str, ...]]:
    """Return a row for each weight."""
    longest = max((row.share for row in found.weights), default=0.0) or 1.0
    return [
        (
            row.name,
            "×".join(map(str, row.shape)),
            f"{row.values:,}",
            f"{row.costs['4']:.2e}",
            f"{row.costs['8']:.2e}",
            f"{row.share:.1%}",
            "█" * round(BAR * row.share / longest),
            _form(row.chosen),
        )
        for row in found.weights
    ]


def _form(chosen: Quantization | None) -> str:
    if chosen is None:
        return "plain"
    wide = chosen.bits == 4 and chosen.block_size > 64
    return f"{chosen.bits} bit" + (f", blocks of {chosen.block_size}" if wide else "")


def _colour(chosen: Quantization | None) -> str:
    if chosen is None:
        return PLAIN
    return WIDE if "blocks" in _form(chosen) else COLOURS[chosen.bits]


def draw(name: str, bits: str, found: Sensitivity, suffix: str = ".png") -> bytes:
    """Return a plot of the costliest weights, horizontal bars coloured by the width that they get, as a file's content.

    Args:
        name: of the model.
        bits: the average, as the user says it.
        found: what to plot.
        suffix: the file's kind.
    """
    from io import BytesIO

    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    rows = found.weights[:PLOTTED]
    figure = Figure(figsize=(9, 1.2 + 0.24 * max(len(rows), 4)), layout="constrained")
    axes = figure.subplots()
    axes.barh(range(len(rows)), [100 * row.share for row in rows], color=[_colour(row.chosen) for row in rows])
    axes.set_yticks(range(len(rows)), [row.name for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("share of what 4 bit costs the loss (%)")
    left = len(found.weights) - len(rows)
    axes.set_title(f"{name}, {bits}" + (f", without the {left} cheapest weights" if left else ""))
    forms = {_form(row.chosen): _colour(row.chosen) for row in sorted(found.weights, key=lambda row: row.stored)}
    shown = [Patch(color=colour, label=form) for form, colour in forms.items()]
    if shown:
        axes.legend(handles=shown, loc="lower right")
    buffer = BytesIO()
    figure.savefig(buffer, format=suffix[1:], dpi=120)
    return buffer.getvalue()


COMMANDS = (sensitivity,)
