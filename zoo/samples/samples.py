"""`zoo.Samples`: pictures, texts or class probabilities drawn from a model, which can be saved and displayed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import OutputError, ZooError
from zoo.samples.classes import CLASSES, PROBABILITIES
from zoo.samples.images import IMAGES
from zoo.samples.kind import Kind, Row
from zoo.samples.pictures import CAPTION, CELL, SUFFIXES, caption_font, checked_images, encode, grid, ink, paper
from zoo.samples.texts import TEXTS

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.console import RenderableType
    from torch import Tensor

KINDS: dict[str, Kind] = {kind.name: kind for kind in (IMAGES, TEXTS, CLASSES, PROBABILITIES)}
_ACROSS = 16  # most pictures in a line of a sheet


class Samples:
    """Samples of a model. Iteration yields the items: Tensors `[c, h, w]`, strings, or Tensors `[k]`.

    Args:
        data: kind "image": float Tensor `[n, c, h, w]` in [0, 1], c = 1, 3 or 4. Kind "text": list of n strings. Kind
            "posterior": float Tensor `[n, k]`, in each row the probabilities of k classes, which add up to 1;
            "probabilities": the same of k classes that do not exclude each other.
        kind: "image", "text", "posterior" or "probabilities".
        captions: one line per sample, shown under it, or None.
        labels: of class probabilities: the names of the classes (default: their numbers).
        images: of class probabilities: the classified pictures `[n, c, h, w]` in [0, 1], if there are any.
        top: of class probabilities: how many of the most probable classes are shown.

    Raises:
        ZooError: `data` has not the form of its kind, or captions, labels or images are not as many.
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
        self.labels: list[str] | None
        self.images = None if images is None else checked_images(images)
        self.top = top
        self.data, self.labels = KINDS[kind].check(data, labels)
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

    def __getitem__(self, index: int | slice | Sequence[int]) -> Samples:
        """Return some of the samples, with their captions and pictures: one by its number, a slice, or a list.

        Raises:
            IndexError: there is no sample of this number.
        """
        chosen = range(len(self))[index] if isinstance(index, int | slice) else [range(len(self))[one] for one in index]
        numbers = [chosen] if isinstance(chosen, int) else list(chosen)
        return Samples(
            [self.data[number] for number in numbers] if isinstance(self.data, list) else self.data[numbers],
            self.kind,
            None if self.captions is None else [self.captions[number] for number in numbers],
            labels=self.labels,
            images=None if self.images is None else self.images[numbers],
            top=self.top,
        )

    @classmethod
    def joined(cls, parts: Sequence[Samples]) -> Samples:
        """Return the samples of several, one after the other.

        Raises:
            ZooError: they are of different kinds, sizes or classes, or only some have captions or pictures.
        """
        import torch

        if not parts:
            raise ZooError("expected samples to join, got none")
        first = parts[0]
        for part in parts[1:]:
            for name, found, wanted in (
                ("kind", part.kind, first.kind),
                ("classes", part.labels, first.labels),
                ("shape", *[getattr(one.data, "shape", ())[1:] for one in (part, first)]),
                ("captions", *[("some" if one.captions else "none") for one in (part, first)]),
                ("pictures", *[getattr(one.images, "shape", ())[1:] for one in (part, first)]),
            ):
                if found != wanted:
                    raise ZooError(f"expected samples of one {name}, got {wanted!r:.80} and {found!r:.80}")
        texts = isinstance(first.data, list)
        return cls(
            [text for part in parts for text in part.data] if texts else torch.cat([part.data for part in parts]),
            first.kind,
            None if first.captions is None else [caption for part in parts for caption in part.captions or ()],
            labels=first.labels,
            images=None if first.images is None else torch.cat([part.images for part in parts]),  # type: ignore[misc]
            top=first.top,
        )

    def __repr__(self) -> str:
        plural = "" if len(self) == 1 else "s"
        return f"<Samples: {len(self)} {self.kind}{plural}{self._kind.details(self.data)}>"

    @property
    def _kind(self) -> Kind:
        return KINDS[self.kind]

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The file name suffixes that `save` accepts, the usual one first."""
        return self._kind.suffixes

    def topk(self, top: int | None = None) -> list[Row]:
        """Return the most probable classes of each sample, (label, probability), best first.

        Args:
            top: how many; default as given to `Samples`.

        Raises:
            ZooError: these are no class probabilities.
        """
        if self._kind.topk is None:
            raise ZooError(f"expected samples of kind 'posterior', these are {self.kind!r}")
        return self._kind.topk(self, top or self.top)

    def likeliest(self, top: int | None = None) -> list[Row]:
        """Return `topk(top)`: the old name, until version 0.3."""
        from zoo.compat import warn

        warn("Samples.likeliest is now Samples.topk")
        return self.topk(top)

    def pictures(self) -> tuple[Tensor, list[str] | None] | None:
        """Return the pictures to show, `[n, c, h, w]`, and a line for each: its caption or most probable class."""
        return self._kind.pictures(self) if self._kind.pictures else None

    def image(self, columns: int | None = None) -> Image:
        """Return all samples as one picture.

        Pictures are a grid with the captions under them; of class probabilities, the most probable classes of each
        sample are bars beside its picture.

        Args:
            columns: samples per row; default near-square.

        Raises:
            ZooError: these are texts, or there is nothing to show.
        """
        if self._kind.image is None:
            raise ZooError(f"expected samples of kind 'image', these are {self.kind!r}: print or save them as .txt")
        return self._kind.image(self, columns)

    def text(self) -> str:
        """Return all samples as one text.

        Several texts, or captioned ones, stand each under a heading; of class probabilities, each sample is a line
        with its most probable classes.

        Raises:
            ZooError: these are pictures.
        """
        if self._kind.text is None:
            raise ZooError(f"expected samples of kind 'text', these are {self.kind!r}: use .image(), or save as .png")
        return self._kind.text(self)

    def json(self) -> list[Any] | None:
        """Return the samples as JSON values: texts, or the most probable classes; None for pictures."""
        return self._kind.json(self) if self._kind.json else None

    def save(self, path: str | Path, *, columns: int | None = None) -> Path:
        """Write the samples to a file, whole or not at all, and return its path.

        Pictures are saved as one grid (.png, .jpg, .webp), texts as one file (.txt, .md), class probabilities as a
        picture or a text of the most probable classes, or all of them as a table (.csv).

        Args:
            path: the file.
            columns: samples per row of a picture; default near-square.

        Raises:
            OutputError: the name ends in something else, or the file cannot be written.
        """
        from zoo.storage.atomic import write_bytes, write_text

        path = Path(path)
        suffix = path.suffix.lower()
        if suffix not in self.suffixes:
            known = ", ".join(self.suffixes)
            raise OutputError(f"cannot save {self.kind} samples as {path}: expected a name in {known}")
        if suffix in SUFFIXES:
            write_bytes(path, encode(self.image(columns), suffix))
        else:
            write_text(path, self._kind.csv(self) if self._kind.csv and suffix == ".csv" else self.text())
        return path

    def _repr_png_(self) -> bytes | None:
        return encode(self.image()) if self._kind.image and len(self) else None

    def _repr_html_(self) -> str | None:
        return self._kind.html(self) if self._kind.html else None

    def __rich__(self) -> RenderableType:
        from rich.text import Text

        return self._kind.rich(self) if len(self) else Text(repr(self))


def sheet(rows: Sequence[tuple[str, Samples | Tensor]], *, cell: int = CELL) -> Image:
    """Return one picture with a labelled row for each (label, pictures), e.g. "before", "after" and "data".

    Args:
        rows: labels with `Samples` or Tensors `[n, c, h, w]` in [0, 1]. They may differ in length, size and channels;
            one of more than 16 pictures is broken into lines of equal length.
        cell: smaller pictures are enlarged to about this many pixels.

    Raises:
        ZooError: there are no rows, or one without pictures.
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
