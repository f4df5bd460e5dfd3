"""The command `zoo data`: what data are read as, before anything is trained on them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from zoo.cli.model_commands import load
from zoo.cli.options import column_option
from zoo.cli.output import Command, echo, json_option, note, print_json
from zoo.errors import DataError, did_you_mean

_SHOWN = 16  # pictures of a sheet
_TEXTS = 3
_WIDTH = 300  # characters of a text


@click.command(
    cls=Command,
    examples="""
    zoo data pictures/ --out sheet.png
    zoo data reviews.csv --column text=review --column label=stars
    zoo data pictures/ --for ddpm
    """,
)
@click.argument("path")
@click.option("--for", "name", metavar="NAME", help="A model: what it makes of the data.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="The PNG of a sheet of pictures.")
@column_option
@json_option
def data(path: str, name: str | None, out: Path | None, columns: tuple[tuple[str, str], ...], as_json: bool) -> None:
    """Show what data are read as: columns, classes, splits, what is left out; some pictures or the first texts."""
    from zoo.data.spec import Data

    given = Data(path, columns=dict(columns))
    facts = _of_model(given, name) if name else _alone(given)
    pictures = facts.pop("pictures", None)
    if pictures is not None and out is not None:
        from zoo.samples import Samples

        facts["sheet"] = str(Samples(pictures, "image", facts.get("captions")).save(out))
    facts.pop("captions", None)
    if as_json:
        print_json(facts)
        return
    for line in facts["lines"]:
        echo(line)
    for text in facts.get("texts", ()):
        echo(f"· {text}")
    for key, shape in facts.get("batch", {}).items():
        echo(f"a batch's {key}: {shape}")
    if "sheet" in facts:
        echo(facts["sheet"])
    elif pictures is not None:
        note("a sheet of pictures: --out sheet.png")


def _alone(given: Any) -> dict[str, Any]:
    """Return what data are by themselves: pictures, or the rows of a table."""
    from zoo.data.letters import PREFIX
    from zoo.data.sources import read_table

    named = str(given.source).startswith(PREFIX)
    if named or _has_images(read_table(given), given.columns):
        return _pictures(given)
    table = read_table(given, kind="text")
    lines, texts = _table_lines(table, given), _texts(table)
    return {"lines": lines, "rows": len(table), "columns": list(table.columns), "texts": texts}


def _has_images(table: Any, columns: Mapping[str, str]) -> bool:
    from zoo.data.columns import USUAL

    usual = [name for name in table.columns if name.lower() in USUAL["image"]]
    return "image" in columns or (bool(usual) and "text" not in columns)


def _pictures(given: Any) -> dict[str, Any]:
    from zoo.data.images import image_items, stacked
    from zoo.data.report import collecting

    with collecting() as reports:
        items = image_items(given, split="shown")
    count = len(items)
    rows = list(range(count))[:: max(1, count // _SHOWN)][:_SHOWN]
    captions = None
    if items.labels is not None and items.classes:
        captions = [items.classes[items.labels[row]] for row in rows]
    return {
        "lines": [line for report in reports for line in report.lines()],
        "reports": [report.as_dict() for report in reports],
        "pictures": stacked(items.images, rows, size=64, channels=3) / 2 + 0.5,
        "captions": captions,
    }


def _table_lines(table: Any, given: Any) -> list[str]:
    for name in given.columns.values():
        if name not in table.columns:
            hint = did_you_mean(name, table.columns)
            raise DataError(f"{table.origin}: has no column {name!r}; it has {', '.join(table.columns)}.{hint}")
    lines = [f"{table.origin}: {len(table)} rows; columns: {', '.join(table.columns)}"]
    if given.columns:
        lines.append("as asked: " + ", ".join(f"{what} is {name}" for what, name in given.columns.items()))
    for column, names in table.classes.items():
        lines.append(f"classes of {column}: {', '.join(names)}")
    if table.splits:
        lines.append("splits: " + ", ".join(f"{split} {len(rows)}" for split, rows in table.splits.items()))
    lines += [f"skipped: {name}: {why}" for name, why in table.skipped[:5]]
    return [*lines, *table.notes]


def _texts(table: Any) -> list[str]:
    rows = range(min(_TEXTS, len(table)))
    return [_cut({name: column[row] for name, column in table.columns.items()}) for row in rows]


def _cut(row: Mapping[str, Any]) -> str:
    text = " | ".join(f"{name}: {value}" for name, value in row.items())
    text = " ".join(text.split())
    return text if len(text) <= _WIDTH else text[:_WIDTH] + "…"


def _of_model(given: Any, name: str) -> dict[str, Any]:
    """Return what a model's `batches` make of data."""
    from zoo.data.report import collecting

    model = load(name, lora=None, bits=None)
    with collecting() as reports:
        batch = next(iter(model.batches(given, batch_size=4)), None)
    shapes = {}
    for key, value in batch.items() if isinstance(batch, Mapping) else ():
        shaped = hasattr(value, "shape")
        shapes[key] = f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}" if shaped else value
    facts: dict[str, Any] = {
        "lines": [line for report in reports for line in report.lines()],
        "reports": [report.as_dict() for report in reports],
        "for": name,
        "batch": {key: str(value) for key, value in shapes.items()},
    }
    return facts


COMMANDS = (data,)
