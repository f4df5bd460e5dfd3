"""Labelled images of the 26 capitals, drawn from the fonts that matplotlib carries (DejaVu, STIX, Computer Modern).

Ink is 1 and paper is 0. The same style, count, seed, size and split give the same tensors on every machine that has the
same versions of Pillow, NumPy and matplotlib. As data they are called "letters:<style>", a fixed set for each split, or
"letters:<style>:fresh", whose letters to train on are drawn anew all the time: for training from random weights.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from zoo.data.batches import Batches
from zoo.data.stream import redrawn
from zoo.errors import DataError, did_you_mean

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont
    from torch import Tensor

    from zoo.plugin.requests import BatchRequest

    Change = Callable[[Tensor, int], Tensor]

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
PREFIX, FRESH = "letters:", ":fresh"  # around a style, in the name of data

_FACES = {
    "sans": ("DejaVuSans", "DejaVuSans-Bold", "cmss10"),
    "serif": ("DejaVuSerif", "DejaVuSerif-Bold", "STIXGeneral", "STIXGeneralBol", "cmr10", "cmb10"),
    "italic": (
        "DejaVuSans-Oblique",
        "DejaVuSans-BoldOblique",
        "DejaVuSerif-Italic",
        "DejaVuSerif-BoldItalic",
        "STIXGeneralItalic",
        "STIXGeneralBolIta",
        "cmti10",
    ),
    "mono": ("DejaVuSansMono", "DejaVuSansMono-Bold", "cmtt10"),
}
FACES = {**_FACES, "all": tuple(face for faces in _FACES.values() for face in faces)}
STYLES = tuple(FACES)

_SPLITS = {"train": 0, "test": 1}
_MASTER = 112  # font size in pixels of the masters that every rendering is resampled from
_OVERSAMPLE = 2  # renderings are drawn this much larger, then box-averaged: smooth edges


def render(style: str, count: int, *, seed: int, size: int = 32, split: str = "train") -> tuple[Tensor, Tensor]:
    """Draw random capitals of one style: images [n, 1, size, size] float32 in [0, 1], labels int64 [n].

    Each image has its own face, letter, height, width, shift and rotation (up to 5 degrees), drawn from `seed`. The
    letters come in shuffled rounds of 26, so every class is as frequent as any other.

    Args:
        style: one of `STYLES`.
        count: the number n of images.
        seed: of all that is drawn.
        size: pixels of an edge.
        split: "train", or "test", which draws from seeds of its own: no seed makes it repeat what "train" drew.

    Raises:
        DataError: there is no such style or split.
    """
    import numpy as np
    import torch

    if style not in FACES:
        raise DataError(
            f"expected letters of a style of {', '.join(STYLES)}, got {style!r}.{did_you_mean(style, STYLES)}"
        )
    if split not in _SPLITS:
        raise DataError(f"expected one of the splits train and test, got {split!r}.{did_you_mean(split, _SPLITS)}")
    if count < 0 or size < 8:
        raise DataError(f"expected count >= 0 and size >= 8, got count={count}, size={size}")
    rng = np.random.default_rng([_SPLITS[split], seed % 2**63])
    faces = FACES[style]
    rounds = -(-count // len(LETTERS))
    labels = rng.permuted(np.tile(np.arange(len(LETTERS)), (rounds, 1)), axis=1).reshape(-1)[:count]
    choices = rng.integers(len(faces), size=count)
    unit = rng.random((count, 5))
    images = np.empty((count, 1, size, size), dtype=np.float32)
    for i in range(count):
        glyph = _master(faces[choices[i]], LETTERS[labels[i]])
        images[i, 0] = _draw(glyph, size, *unit[i])
    return torch.from_numpy(images / 255.0), torch.from_numpy(labels)


def kept(style: str, count: int, size: int, split: str) -> tuple[Tensor, Tensor]:
    """Return what `render` draws from seed 0; the last few are kept, as each evaluation of a run asks for the same."""
    images, labels = _kept(style, count, size, split)
    return images / 255.0, labels.clone()


@lru_cache(maxsize=8)
def _kept(style: str, count: int, size: int, split: str) -> tuple[Tensor, Tensor]:
    images, labels = render(style, count, seed=0, size=size, split=split)
    return (images * 255).round().byte(), labels  # a quarter of the bytes, and exact: pixels are n / 255


def style_of(name: str) -> tuple[str, bool]:
    """Return the style that "letters:<style>" or "letters:<style>:fresh" names, and whether it is the second."""
    style = name.removeprefix(PREFIX)
    return style.removesuffix(FRESH), style.endswith(FRESH)


def is_fresh(data: Any) -> bool:
    """Return whether `data` names letters that are drawn anew all the time."""
    return isinstance(data, str) and data.startswith(PREFIX) and data.endswith(FRESH)


def fresh(
    name: str,
    request: BatchRequest,
    *,
    size: int = 32,
    channels: int = 1,
    labelled: bool = True,
    change: Change | None = None,
) -> Batches[dict[str, Tensor]]:
    """Return endless batches of letters drawn from seeds of their own, each seen once.

    Batches are "images" [n, channels, size, size] in [-1, 1] and, if `labelled`, "labels" int64 [n].

    Args:
        name: "letters:<style>:fresh".
        request: batch size and seed.
        size: pixels of an edge.
        channels: 1, or 3 equal ones.
        labelled: whether batches have labels.
        change: (images [m, 1, size, size] in [0, 1], seed) → images of the same shape, to augment what is drawn.

    Raises:
        DataError: there is no such style; at the call and not at the first batch.
    """
    style, _ = style_of(name)
    render(style, 0, seed=0, size=size)
    rounds = 8  # batches that are drawn at once

    def draw(seed: int) -> dict[str, Tensor | None]:
        images, labels = render(style, rounds * request.batch_size, seed=seed, size=size)
        if change is not None:
            images = change(images, seed)
        return {"images": (images * 2 - 1).expand(-1, channels, -1, -1), "labels": labels if labelled else None}

    return redrawn(draw, request, batches=rounds)


def _draw(
    glyph: Image, size: int, tall: float, wide: float, right: float, down: float, turn: float
) -> NDArray[np.float32]:
    """Return one rendering [size, size] in 0..255 of a master glyph, placed by five numbers in [0, 1)."""
    import math

    import numpy as np
    from PIL import Image

    canvas = size * _OVERSAMPLE
    height = (0.56 + 0.16 * tall) * canvas
    scale_y = height / glyph.height
    # Bold W and M are wider than the canvas at that height, so the width has a limit of its own.
    scale_x = min(scale_y * (0.85 + 0.25 * wide), 0.8 * canvas / glyph.width)
    angle = math.radians(10.0 * turn - 5.0)
    cos, sin = math.cos(angle), math.sin(angle)
    # Pillow wants the map from output to input: undo the shift, then the rotation, then the scale, about both centres.
    centre_x = (0.5 + 0.08 * (right - 0.5)) * canvas
    centre_y = (0.5 + 0.08 * (down - 0.5)) * canvas
    a, b = cos / scale_x, sin / scale_x
    d, e = -sin / scale_y, cos / scale_y
    c = glyph.width / 2 - a * centre_x - b * centre_y
    f = glyph.height / 2 - d * centre_x - e * centre_y
    drawn = glyph.transform((canvas, canvas), Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.BILINEAR)
    return np.asarray(drawn.reduce(_OVERSAMPLE), dtype=np.float32)


@lru_cache(maxsize=512)
def _master(face: str, letter: str) -> Image:
    """Return a large greyscale glyph, cropped to its ink."""
    from PIL import Image, ImageDraw

    image = Image.new("L", (2 * _MASTER, 2 * _MASTER))
    ImageDraw.Draw(image).text((_MASTER // 2, _MASTER // 2), letter, fill=255, font=_font(face))
    left, top, right, bottom = image.getbbox() or (0, 0, 1, 1)
    # A rim of paper: bilinear resampling treats everything outside the source as paper only where a neighbour exists.
    return image.crop((left - 2, top - 2, right + 2, bottom + 2))


@lru_cache(maxsize=64)
def _font(face: str) -> FreeTypeFont:
    """Return a face at the master size.

    Basic layout: the optional shaping engine would make results depend on the machine.
    """
    from pathlib import Path

    import matplotlib
    from PIL import ImageFont

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"
    try:
        return ImageFont.truetype(str(path), _MASTER, layout_engine=ImageFont.Layout.BASIC)
    except OSError as error:
        raise DataError(f"expected matplotlib's font {face}.ttf at {path}, found none: reinstall matplotlib") from error
