"""Class posteriors shown: the likeliest classes of each sample as a picture, a table, and comma-separated values.

Shapes: n samples, k classes. `rows` below are the likeliest classes of each sample, (label, probability), best first.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from io import StringIO
from typing import TYPE_CHECKING, Any

from zoo.errors import ZooError
from zoo.samples.pictures import caption_font, cut, to_pictures

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.table import Table
    from torch import Tensor

Row = list[tuple[str, float]]

_CELL = 80  # pixels of a sample's picture, about
_BAR = 120  # pixels of a probability of 1
_LINE = 16  # pixels between a sample's classes
_TEXT = 11  # font size in pixels
_BLUE, _GREY = (150, 190, 235), (225, 228, 232)


def checked(data: Any, labels: Sequence[str] | None) -> tuple[Tensor, list[str]]:
    """Probabilities `[n, k]` float32 on the CPU, with k names (their numbers where there are none)."""
    import torch

    if not isinstance(data, torch.Tensor) or data.ndim != 2 or not data.is_floating_point() or not data.shape[1]:
        got = f"{data.dtype} {tuple(data.shape)}" if isinstance(data, torch.Tensor) else type(data).__name__
        raise ZooError(f"expected posteriors as a floating point Tensor [n, classes], got {got}")
    data = data.detach().float().cpu()
    if len(data) and not (bool((data >= -1e-6).all()) and bool(((data.sum(1) - 1).abs() < 1e-2).all())):
        raise ZooError("expected posteriors whose rows are probabilities that add up to 1: apply softmax to logits")
    names = [str(number) for number in range(data.shape[1])] if labels is None else [str(label) for label in labels]
    if len(names) != data.shape[1]:
        raise ZooError(f"expected one label for each of {data.shape[1]} classes, got {len(names)}")
    return data, names


def likeliest(data: Tensor, labels: Sequence[str], top: int) -> list[Row]:
    """The `top` likeliest classes of each sample, best first."""
    values, indices = data.topk(min(top, data.shape[1]), dim=1)
    return [
        [(labels[index], value) for value, index in zip(row, where, strict=True)]
        for row, where in zip(values.tolist(), indices.tolist(), strict=True)
    ]


def as_csv(data: Tensor, labels: Sequence[str], captions: Sequence[str] | None) -> str:
    """A line per sample: its caption or number, its likeliest class, and the probability of every class."""
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["sample", "likeliest", *labels])
    for index, values in enumerate(data.tolist()):
        name = captions[index] if captions is not None else index + 1
        writer.writerow([name, labels[int(data[index].argmax())], *(f"{value:.6g}" for value in values)])
    return out.getvalue()


def as_text(rows: Sequence[Row], captions: Sequence[str] | None) -> str:
    """A line per sample: `caption: A 98 %, B 1 %, …`."""
    lines = [", ".join(f"{label} {_percent(value)}" for label, value in row) for row in rows]
    names = captions if captions is not None else [str(index + 1) for index in range(len(rows))]
    return "".join(f"{name}: {line}\n" for name, line in zip(names, lines, strict=True))


def as_table(rows: Sequence[Row], captions: Sequence[str] | None) -> Table:
    """A line per sample on a terminal, with a bar for the likeliest class."""
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE)
    for column in ("sample", "likeliest", "", "then"):
        table.add_column(column, no_wrap=column != "then")
    names = captions if captions is not None else [str(index + 1) for index in range(len(rows))]
    for name, row in zip(names, rows, strict=True):
        label, value = row[0]
        bar = "█" * round(10 * value)
        rest = ", ".join(f"{label} {_percent(value)}" for label, value in row[1:])
        table.add_row(Text(name), Text(f"{label} {_percent(value)}"), Text(bar, style="blue"), Text(rest))
    return table


def picture(
    rows: Sequence[Row], images: Tensor | None, captions: Sequence[str] | None, columns: int | None = None
) -> Image:
    """Each sample's picture, if there are any, with its likeliest classes as bars beside it; near-square."""
    from PIL import Image as PIL
    from PIL import ImageDraw

    if not rows:
        raise ZooError("expected at least one sample, got none")
    if columns is not None and columns < 1:
        raise ZooError(f"expected at least one column, got {columns}")
    pictures = [] if images is None else [_enlarged(each.convert("RGB")) for each in to_pictures(images)]
    beside = max((each.width for each in pictures), default=0)
    high = max((each.height for each in pictures), default=0)
    font = caption_font(_TEXT)
    head = _LINE if captions is not None else 0
    width, height = beside + _BAR + 16, max(high + head, head + _LINE * len(rows[0])) + 8
    columns = min(columns or max(1, round(math.sqrt(len(rows) * height / width))), len(rows))
    canvas = PIL.new("RGB", (columns * width, -(-len(rows) // columns) * height), "white")
    draw = ImageDraw.Draw(canvas)
    for index, row in enumerate(rows):
        left, top = index % columns * width + 4, index // columns * height + 4
        if captions is not None:
            draw.text((left, top), cut(captions[index], width - 8, font), fill=(40, 40, 40), font=font)
        if pictures:
            canvas.paste(pictures[index], (left, top + head))
        for place, (label, value) in enumerate(row):
            x, y = left + beside + 6, top + head + place * _LINE
            draw.rectangle((x, y, x + _BAR - 1, y + _LINE - 3), fill=_GREY)
            draw.rectangle((x, y, x + max(0, round(_BAR * value) - 1), y + _LINE - 3), fill=_BLUE)
            told = _percent(value)
            draw.text((x + 3, y), cut(label, _BAR - 44, font), fill=(0, 0, 0), font=font)
            draw.text((x + _BAR - 3 - font.getlength(told), y), told, fill=(0, 0, 0), font=font)
    return canvas


def _enlarged(image: Image) -> Image:
    from PIL import Image as PIL

    edge = max(image.size)
    if edge > 2 * _CELL:
        shape = (max(1, image.width * _CELL // edge), max(1, image.height * _CELL // edge))
        return image.resize(shape, PIL.Resampling.BOX)
    factor = max(1, _CELL // edge)
    return image.resize((image.width * factor, image.height * factor), PIL.Resampling.NEAREST)


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %" if value >= 0.095 or value < 5e-4 else f"{100 * value:.1f} %"
