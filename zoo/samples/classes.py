"""Samples that are class probabilities: float Tensor `[n, k]`, in each row the probabilities of k classes."""

from __future__ import annotations

import csv
import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from io import StringIO
from typing import TYPE_CHECKING, Any

from zoo.errors import ZooError, printable
from zoo.samples.kind import Content, Distances, Row, SampleKind, Shown
from zoo.samples.pictures import SUFFIXES, to_pictures

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.table import Table
    from torch import Tensor

_PICTURE, _BAR, _LINE = 80, 120, 16  # pixels: of a picture, of a probability of 1, and between a sample's classes
_DPI, _TEXT = 100, 7.5  # font size in points


def _bars(
    rows: Sequence[Row], images: Tensor | None, captions: Sequence[str] | None, columns: int | None = None
) -> Image:
    """Return one near-square picture: of each sample its picture, if any, and its most probable classes as bars."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox, TransformedBbox
    from PIL import Image as PIL

    if not rows:
        raise ZooError("expected at least one sample, got none")
    if columns is not None and columns < 1:
        raise ZooError(f"expected at least one column, got {columns}")
    head, beside = _LINE if captions is not None else 0, _PICTURE if images is not None else 0
    width, height = beside + _BAR + 16, head + max(beside, _LINE * len(rows[0])) + 8  # of one sample
    columns = min(columns or max(1, round(math.sqrt(len(rows) * height / width))), len(rows))
    across, down = columns * width, -(-len(rows) // columns) * height
    canvas = FigureCanvasAgg(Figure(figsize=(across / _DPI, down / _DPI), dpi=_DPI))
    axes = canvas.figure.add_axes((0, 0, 1, 1), xlim=(0, across), ylim=(down, 0))  # in pixels, from the top
    axes.set_axis_off()

    def write(x: float, y: float, text: str, room: float, **style: Any) -> None:
        inner = TransformedBbox(Bbox.from_extents(x - room, y - _LINE, x + room, y + _LINE), axes.transData)
        style |= {"va": "center", "fontsize": _TEXT, "parse_math": False, "clip_on": True}  # a label may have a $
        axes.text(x, y, text, **style).set_clip_box(inner)

    bars: list[tuple[float, float, float]] = []  # left, middle, probability
    for index, row in enumerate(rows):
        left, top = index % columns * width + 4, index // columns * height + 4
        if captions is not None:
            write(left, top + _LINE / 2, captions[index].partition("\n")[0], width - 8)
        top += head
        if images is not None:
            picture = to_pictures(images[index : index + 1])[0].convert("RGB")
            wide, high = (_PICTURE * edge / max(picture.size) for edge in picture.size)
            axes.imshow(picture, extent=(left, left + wide, top + high, top), aspect="auto")
        left += beside + 6
        for place, (label, value) in enumerate(row):
            y = top + (place + 0.5) * _LINE
            write(left + 3, y, label, _BAR - 44)
            write(left + _BAR - 3, y, _percent(value), _BAR, ha="right")
            bars.append((left, y, value))
    lefts, middles, values = zip(*bars, strict=True)
    thick = (_LINE - 3) * 72 / _DPI  # lines, drawn all at once: barh took half of the time
    axes.hlines(middles, lefts, [left + _BAR for left in lefts], colors="#e1e4e8", linewidths=thick)
    ends = [left + _BAR * value for left, value in zip(lefts, values, strict=True)]
    axes.hlines(middles, lefts, ends, colors="#96beeb", linewidths=thick)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a character that the font has not is drawn as a box
        canvas.draw()
    return PIL.frombuffer("RGBA", (across, down), canvas.buffer_rgba()).convert("RGB")


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %" if value >= 0.095 or value < 5e-4 else f"{100 * value:.1f} %"


def _check(data: Any, labels: Sequence[str] | None, adding_up: bool = True) -> tuple[Tensor, list[str]]:
    """Return the probabilities as float32 on the CPU, and k names: their numbers if `labels` is None."""
    import torch

    if not isinstance(data, torch.Tensor) or data.ndim != 2 or not data.is_floating_point() or not data.shape[1]:
        got = f"{data.dtype} {tuple(data.shape)}" if isinstance(data, torch.Tensor) else type(data).__name__
        raise ZooError(f"expected posteriors as a floating point Tensor [n, classes], got {got}")
    data = data.detach().float().cpu()
    if len(data) and not bool(((data >= -1e-6) & (data <= 1 + 1e-6)).all()):
        raise ZooError("expected probabilities from 0 to 1: apply softmax or sigmoid to logits")
    if len(data) and adding_up and not bool(((data.sum(1) - 1).abs() < 1e-2).all()):
        raise ZooError("expected posteriors whose rows are probabilities that add up to 1: apply softmax to logits")
    names = [str(name) for name in (range(data.shape[1]) if labels is None else labels)]
    if len(names) != data.shape[1]:
        raise ZooError(f"expected one label for each of {data.shape[1]} classes, got {len(names)}")
    return data, names


def _topk(samples: Content, top: int) -> list[Row]:
    labels = samples.labels or []
    values, indices = samples.data.topk(min(top, samples.data.shape[1]), dim=1)
    return [
        [(labels[index], value) for value, index in zip(row, places, strict=True)]
        for row, places in zip(values.tolist(), indices.tolist(), strict=True)
    ]


def _names(samples: Content) -> list[str]:
    return samples.captions or [str(index + 1) for index in range(len(samples.data))]


def _show(samples: Content) -> list[Shown]:
    images = [None] * len(samples.data) if samples.images is None else samples.images
    rows = _topk(samples, samples.top)
    return [Shown(picture=image, classes=row) for image, row in zip(images, rows, strict=True)]


def _shares_apart(first: Content, second: Content) -> Distances:
    distances = (first.data.float() - second.data.float()).cpu().abs()
    return "share of the probability on another class", (distances.sum(1) / 2).tolist()


def _values_apart(first: Content, second: Content) -> Distances:
    distances = (first.data.float() - second.data.float()).cpu().abs()
    return "mean difference of a probability", distances.mean(1).tolist()


def _text(samples: Content) -> str:
    """Return a line per sample: `caption: A 98 %, B 1 %, …`."""
    rows = _topk(samples, samples.top)
    lines = [", ".join(f"{label} {_percent(value)}" for label, value in row) for row in rows]
    return "".join(f"{name}: {line}\n" for name, line in zip(_names(samples), lines, strict=True))


def _csv(samples: Content) -> str:
    """Return a line per sample: its caption or number, its most probable class, and each class's probability."""
    labels = samples.labels or []
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["sample", "likeliest", *labels])
    for name, values in zip(_names(samples), samples.data, strict=True):
        writer.writerow([name, labels[int(values.argmax())], *(f"{value:.6g}" for value in values.tolist())])
    return out.getvalue()


def _rich(samples: Content) -> Table:
    """Return a table with a line per sample, and a bar for its most probable class."""
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE)
    for column in ("sample", "likeliest", "", "then"):
        table.add_column(column, no_wrap=column != "then")
    for name, row in zip(_names(samples), _topk(samples, samples.top), strict=True):
        label, value = row[0]
        bar = "█" * round(10 * value)
        rest = ", ".join(f"{label} {_percent(value)}" for label, value in row[1:])
        said = [Text(printable(text)) for text in (name, f"{label} {_percent(value)}", rest)]
        table.add_row(said[0], said[1], Text(bar, style="blue"), said[2])
    return table


CLASSES = SampleKind(
    "posterior",
    show=_show,
    files={".csv": _csv},
    check=_check,
    details=lambda data: f" over {data.shape[1]} classes",
    apart=_shares_apart,
    json=lambda samples: [dict(row) for row in _topk(samples, samples.top)],
    topk=_topk,
    endings=(*SUFFIXES, ".csv", ".txt"),
    image=lambda samples, columns: _bars(_topk(samples, samples.top), samples.images, samples.captions, columns),
    text=_text,
    rich=_rich,
)

# Of several classes at once: each has a probability by itself.
PROBABILITIES = replace(
    CLASSES,
    name="probabilities",
    check=lambda data, labels: _check(data, labels, adding_up=False),
    apart=_values_apart,
)
