"""The command `zoo data`: what would be taken of somebody's data, and what left, before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.cli.options import column_option, with_columns
from zoo.cli.output import Command, json_option, print_json

if TYPE_CHECKING:
    from zoo.data.spec import Data

SHEET = 16  # pictures on a sheet
TEXTS = 3  # shown first
LONGEST = 100  # characters of a text that is shown


@click.command(
    cls=Command,
    examples="""
    zoo data pictures/
    zoo data pictures/ --out sheet.png
    zoo data reviews.csv --for bert --column text=review
    zoo data letters:serif --json
    """,
)
@click.argument("path")
@click.option("--for", "name", metavar="NAME", help="Read it as this model does.")
@column_option
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="A sheet of the first pictures, a .png.")
@json_option
def data(path: str, name: str | None, columns: tuple[str, ...], out: Path | None, as_json: bool) -> None:
    """Show what is read of a folder or a file: used, skipped and why, columns, classes, splits."""
    from zoo.data.report import collecting
    from zoo.data.spec import as_data

    given = as_data(with_columns(path, columns))
    with collecting() as reports:
        texts = _read_for(name, given) if name else _read(given, out)
    lines = list(dict.fromkeys(line for report in reports for line in report.lines()))
    if as_json:
        print_json({"reports": [report.as_dict() for report in reports], "texts": texts})
        return
    for line in [*lines, *texts]:
        click.echo(line)
    if out is not None:
        click.echo(str(out))


def _read_for(name: str, given: Data) -> list[str]:
    """Read data as a model does, to train and to evaluate."""
    import zoo

    model = zoo.load(name)
    for split in ("train", "test"):
        next(iter(model.batches(given, batch_size=1, split=split)))
    return []


def _read(given: Data, out: Path | None) -> list[str]:
    """Read data by what they are, pictures or a table; return the first texts."""
    from zoo.data.images import image_items
    from zoo.data.letters import PREFIX
    from zoo.data.report import Report, record
    from zoo.data.sources import read_table
    from zoo.errors import DataError

    if str(given.source).startswith(PREFIX):
        _sheet(image_items(given, split="train"), out)
        return []
    table = read_table(given)
    if "image" in table.columns or given.columns.get("image"):
        _sheet(image_items(given, split="train"), out)
        return []
    if out is not None:
        raise DataError(f"{table.origin}: has no pictures for a sheet: leave --out out")
    splits = {split: len(rows) for split, rows in table.splits.items()} or {"all": len(table)}
    names = ", ".join(table.columns)
    record(Report(table.origin, "rows", splits, skipped=table.skipped, notes=(f"columns: {names}", *table.notes)))
    return [
        _line({column: values[i] for column, values in table.columns.items()}) for i in range(min(TEXTS, len(table)))
    ]


def _line(row: dict[str, Any]) -> str:
    text = " · ".join(str(value) for value in row.values())
    plain = " ".join(text.split())
    return plain if len(plain) <= LONGEST else plain[: LONGEST - 1] + "…"


def _sheet(items: Any, out: Path | None) -> None:
    """Write the first pictures side by side."""
    if out is None:
        return
    from zoo.data.images import stacked
    from zoo.samples import Samples

    rows = range(len(items))[:: max(1, len(items) // SHEET)][:SHEET]
    labels = None if items.labels is None else items.labels[list(rows)].tolist()
    captions = None if labels is None else [items.classes[i] if items.classes else str(i) for i in labels]
    images = stacked(items.images, rows, size=64, channels=3)
    Samples(images / 2 + 0.5, "image", captions).save(out)


COMMANDS = (data,)
