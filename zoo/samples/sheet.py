"""Several rows of pictures in one, each with its label."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from zoo.errors import ZooError
from zoo.samples.pictures import CAPTION, CELL, caption_font, grid, ink, paper
from zoo.samples.samples import Samples

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

_ACROSS = 16  # most pictures in a line


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
