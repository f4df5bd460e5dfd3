"""The command that compares several ways to have a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.cli.model_commands import parse_options
from zoo.cli.names import MODEL
from zoo.cli.options import column_option
from zoo.cli.output import Command, echo, json_option, note, print_json, print_table

if TYPE_CHECKING:
    from zoo.comparison import Comparison, Way

WIDTHS = (4, 8, 16, 32)


class Numbers(click.ParamType):
    """Whole numbers with commas between them."""

    name = "numbers"

    def __init__(self, known: tuple[int, ...] | None = None) -> None:
        self.known = known

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Return the numbers.

        Raises:
            click.BadParameter: they are none, or not among those that are known.
        """
        if isinstance(value, tuple):
            return value
        words = [word.strip() for word in str(value).split(",")]
        for word in words:
            if not word.isdecimal() or int(word) < 1 or (self.known is not None and int(word) not in self.known):
                expected = "whole numbers" if self.known is None else f"numbers of {', '.join(map(str, self.known))}"
                self.fail(f"expected {expected} with commas between them, got {value!r}", param, ctx)
        return tuple(dict.fromkeys(int(word) for word in words))


@click.command(
    cls=Command,
    examples="""
    zoo compare ddpm --data letters:serif --bits 32,16,8,4 --lora 8 --full
    zoo compare gpt --data notes.txt --bits 32,4 --lora 4,16 --merged --steps 500 --out runs/compare
    zoo compare vit --bits 32,8,4 --no-lora
    """,
)
@click.argument("name", type=MODEL)
@click.option(
    "--data", metavar="WHAT", help="A folder, a file or a name such as letters:serif [default: the plugin's]."
)
@column_option
@click.option("--bits", type=Numbers(WIDTHS), default=(32, 16, 8, 4), metavar="N,N,…", help="Precisions [32,16,8,4].")
@click.option("--lora", type=Numbers(), default=(8,), metavar="RANK,…", help="Ranks, in each precision [8].")
@click.option("--no-lora", is_flag=True, help="Without adapters: the effect of the precision alone.")
@click.option("--full", is_flag=True, help="Tune every weight too, in the highest precision.")
@click.option("--merged", is_flag=True, help="Measure each adapter merged, too.")
@click.option("--steps", type=click.IntRange(min=1), default=200, show_default=True, help="Of tuning.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Items per batch [default: the plugin's].")
@click.option("--lr", type=click.FloatRange(min=0, min_open=True), help="The highest learning rate.")
@click.option("--samples", type=click.IntRange(min=1), help="That each way draws [default: 16].")
@click.option("-o", "--option", "options", metavar="KEY=VALUE", multiple=True, help="An option of sampling.")
@click.option("--metric", "metrics", metavar="NAME", multiple=True, help="One more metric; repeatable.")
@click.option("--judge", metavar="WHAT", help="Whose features compare pictures: pixels, inception or a classifier.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of tuning, of new factors and of samples.")
@click.option("--weights", metavar="WHERE", help="Other weights: a Hub repository or a local folder.")
@click.option("--revision", metavar="SHA", help="The Hub repository's commit.")
@click.option("--device", metavar="NAME", help="cpu, cuda, mps [default: the best there is].")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="The folder [default: compare-NAME].")
@json_option
def compare(
    name: str,
    data: str | None,
    columns: tuple[tuple[str, str], ...],
    bits: tuple[int, ...],
    lora: tuple[int, ...],
    no_lora: bool,
    full: bool,
    merged: bool,
    options: tuple[str, ...],
    out: Path | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Measure precisions, LoRA and full fine-tuning alike, and write one report.

    Into the folder --out go report.html, report.json, blind.html, on which a person chooses between samples, and a
    folder for each way. What is finished is kept: the same command goes on where it was interrupted.
    """
    if columns and data is None:
        raise click.UsageError("--column names columns of the data: give --data")
    if options:
        settings["options"] = parse_options(options)

    from zoo.comparison import compare as run
    from zoo.loading.run_files import file_name

    found = run(
        name,
        data,
        bits=bits,
        lora=None if no_lora else lora,
        full=full,
        merged=merged,
        out=out or Path(f"compare-{file_name(name)}"),
        columns=dict(columns),
        on_cell=_report,
        **settings,
    )
    for cell in found.cells:
        if cell.error:
            note(f"{cell.way.name} could not be measured: {cell.error}")
    if as_json:
        print_json(found.as_dict())
        return
    _print(found)
    echo(str(found.report))


def _report(way: Way, what: str) -> None:
    note(f"{way.name}: {'measuring …' if what == 'begins' else what}")


def _print(found: Comparison) -> None:
    from zoo.reports import byte_size, duration

    main = next(iter(found.measured[0].figures))
    rows = []
    for cell in found.measured:
        ends, tuning = cell.interval(main), cell.measured.get("tuning")
        shown = f"{cell.figures[main]:.4g}" + ("" if ends is None else f" [{ends[0]:.4g}, {ends[1]:.4g}]")
        time = duration(tuning["seconds_a_step"]) if tuning else "-"
        rows.append([cell.way.name, shown, byte_size(cell.measured["bytes"]), time])
    print_table(["way", main, "stored", "a step"], rows)


COMMANDS = (compare,)
