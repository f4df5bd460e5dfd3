"""What a model's `sample` gives: pictures, texts or class posteriors, which can be saved and which show themselves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import OutputError, ZooError
from zoo.samples import classes
from zoo.samples.pictures import CAPTION, CELL, Pixels, caption_font, checked_images, encode, grid, ink, paper

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.console import RenderableType
    from torch import Tensor

KINDS = ("image", "text", "posterior")
_PICTURES = (".png", ".jpg", ".jpeg", ".webp")
_SUFFIXES = {"image": _PICTURES, "text": (".txt", ".md"), "posterior": (*_PICTURES, ".csv", ".txt")}
_ACROSS = 16  # pictures in a line of a sheet at most


class Samples:
    """What was drawn from a model.

    Args:
        data: kind "image": float Tensor [n, c, h, w] in [0, 1], c = 1, 3 or 4. Kind "text": list of n strings. Kind
            "posterior": float Tensor [n, k], in each row the probabilities of k classes.
        kind: "image", "text" or "posterior".
        captions: one line per sample, shown under it, or None.
        labels, images, top: of a posterior: the names of the classes (default: their numbers), the pictures
            [n, c, h, w] in [0, 1] that it is of, if any, and how many of the likeliest classes are shown.

    Iteration yields the items: Tensors [c, h, w], strings, or Tensors [k].
    """

    def __init__(
        self,
        data: Tensor | Sequence[str],
        kind: str,
        captions: Sequence[str] | None = None,
        *,
        labels: Sequence[str] | None = None,
        images: Tensor | None = None,
        top: int = 5,
    ) -> None:
        if kind not in KINDS:
            raise ZooError(f"expected samples of kind {' or '.join(map(repr, KINDS))}, got {kind!r}")
        self.data: Any
        self.labels: list[str] | None = None
        self.images = None if images is None else checked_images(images)
        self.top = top
        if kind == "posterior":
            self.data, self.labels = classes.checked(data, labels)
        else:
            self.data = checked_images(data) if kind == "image" else _checked_texts(data)
        if self.images is not None and len(self.images) != len(self.data):
            raise ZooError(f"expected one picture for each of {len(self.data)} samples, got {len(self.images)}")
        self.kind = kind
        self.captions = None if captions is None else [str(caption) for caption in captions]
        if self.captions is not None and len(self.captions) != len(self.data):
            raise ZooError(f"expected one caption for each of {len(self.data)} samples, got {len(self.captions)}")

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.data)

    def __repr__(self) -> str:
        count = f"{len(self)} {self.kind}{'' if len(self) == 1 else 's'}"
        if self.kind == "posterior":
            return f"<Samples: {count} over {self.data.shape[1]} classes>"
        return f"<Samples: {count}{' of ' + 'x'.join(map(str, self.data.shape[1:])) if self.kind == 'image' else ''}>"

    def likeliest(self, top: int | None = None) -> list[list[tuple[str, float]]]:
        """Of a posterior: each sample's likeliest classes, (label, probability), best first."""
        if self.kind != "posterior":
            raise ZooError(f"expected samples of kind 'posterior', these are {self.kind!r}")
        return classes.likeliest(self.data, self.labels or [], top or self.top)

    def pictures(self) -> tuple[Tensor, list[str] | None] | None:
        """The pictures that there are to show, [n, c, h, w], and a line for each: its caption or likeliest class."""
        if self.kind == "posterior":
            lines = [f"{label} {value:.0%}" for ((label, value),) in self.likeliest(1)]
            return None if self.images is None else (self.images, lines)
        return (self.data, self.captions) if self.kind == "image" else None

    def image(self, columns: int | None = None) -> Image:
        """All pictures as one grid, near-square unless `columns` is given, with the captions under them.

        Of a posterior: the likeliest classes of each sample as bars, beside its picture.
        """
        if self.kind == "posterior":
            return classes.picture(self.likeliest(), self.images, self.captions, columns)
        if self.kind != "image":
            raise ZooError(f"expected samples of kind 'image', these are {self.kind!r}: print or save them as .txt")
        return grid(self.data, columns=columns, captions=self.captions)

    def text(self) -> str:
        """All texts as one; several, or captioned ones, each under a line that names it.

        Of a posterior: a line for each sample with its likeliest classes.
        """
        if self.kind == "posterior":
            return classes.as_text(self.likeliest(), self.captions)
        if self.kind != "text":
            raise ZooError(f"expected samples of kind 'text', these are {self.kind!r}: use .image(), or save as .png")
        if len(self) == 1 and self.captions is None:
            return f"{self.data[0]}\n"
        names = self.captions or [str(index + 1) for index in range(len(self))]
        return "\n".join(f"=== {name} ===\n{text}\n" for name, text in zip(names, self.data, strict=True))

    def save(self, path: str | Path, *, columns: int | None = None) -> Path:
        """Write pictures as one grid (.png, .jpg, .webp) or texts as one file (.txt, .md); gives the path.

        A posterior: as a picture or a text of the likeliest classes, or all of it as a table (.csv).

        The file appears whole or not at all.

        Raises:
            OutputError: the name ends in something else, or the file cannot be written.
        """
        from zoo.storage.atomic import write_bytes, write_text

        path = Path(path)
        suffixes = _SUFFIXES[self.kind]
        if path.suffix.lower() not in suffixes:
            raise OutputError(f"cannot save {self.kind} samples as {path}: expected a name in {', '.join(suffixes)}")
        if path.suffix.lower() == ".csv":
            write_text(path, classes.as_csv(self.data, self.labels or [], self.captions))
        elif path.suffix.lower() in _PICTURES:
            write_bytes(path, encode(self.image(columns), path.suffix))
        else:
            write_text(path, self.text())
        return path

    def _repr_png_(self) -> bytes | None:
        return encode(self.image()) if self.kind != "text" and len(self) else None

    def _repr_html_(self) -> str | None:
        from html import escape

        if self.kind != "text":
            return None
        captions = self.captions or [""] * len(self)
        items = (
            f"<figure>{f'<figcaption><b>{escape(caption)}</b></figcaption>' if caption else ''}"
            f'<pre style="white-space: pre-wrap">{escape(text)}</pre></figure>'
            for caption, text in zip(captions, self.data, strict=True)
        )
        return "".join(items)

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.panel import Panel
        from rich.text import Text

        if not len(self):
            return Text(repr(self))
        if self.kind == "posterior":
            return classes.as_table(self.likeliest(), self.captions)
        if self.kind == "image":
            return Pixels(grid(self.data, captions=None, cell=1))
        titles = self.captions or [""] * len(self)
        # Text, not str: brackets in a sample are no markup.
        return Group(
            *(
                Panel(Text(text), title=Text(title) if title else None, title_align="left")
                for title, text in zip(titles, self.data, strict=True)
            )
        )


def sheet(rows: Sequence[tuple[str, Samples | Tensor]], *, cell: int = CELL) -> Image:
    """One picture with a labelled row for each (label, pictures), e.g. "before", "after" and "data".

    A Tensor is [n, c, h, w] in [0, 1], as in Samples. Rows may differ in length, size and channels; one of more than
    16 pictures is broken into lines of equal length.
    """
    from PIL import Image as PIL
    from PIL import ImageDraw

    if not rows:
        raise ZooError("expected at least one row, got none")
    strips = []
    for _, row in rows:
        shown = row.pictures() if isinstance(row, Samples) else (row, None)
        if shown is None:
            raise ZooError("expected rows of pictures, got samples that have none")
        images, captions = shown
        lines = math.ceil(len(images) / _ACROSS)
        columns = math.ceil(len(images) / max(1, lines))
        strips.append(grid(images, columns=max(1, columns), captions=captions, cell=cell).convert("RGB"))
    font = caption_font(CAPTION + 3)
    margin = math.ceil(max(font.getlength(label) for label, _ in rows)) + 16
    canvas = PIL.new("RGB", (margin + max(s.width for s in strips), sum(s.height for s in strips)), paper("RGB"))
    draw, top = ImageDraw.Draw(canvas), 0
    for (label, _), strip in zip(rows, strips, strict=True):
        draw.text((8, top + strip.height / 2), label, fill=ink("RGB"), font=font, anchor="lm")
        canvas.paste(strip, (margin, top))
        top += strip.height
    return canvas


def _checked_texts(data: Any) -> list[str]:
    if isinstance(data, str) or not all(isinstance(item, str) for item in data):
        raise ZooError(f"expected texts as a list of strings, got {type(data).__name__}")
    return list(data)
