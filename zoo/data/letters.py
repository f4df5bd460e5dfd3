"""Labelled images of the 26 capitals, drawn from the fonts that matplotlib carries (DejaVu, STIX, Computer Modern).

Ink is 1 and paper is 0. The same style, count, seed, size and split give the same tensors on every machine that has the
same versions of Pillow, NumPy and matplotlib.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from zoo.errors import DataError, did_you_mean

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont
    from torch import Tensor

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

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
    """Draw `count` random capitals of one style: images `[n, 1, size, size]` float32 in [0, 1], labels `[n]` int64.

    Each image has its own face, letter, height, width, shift, rotation (up to 5 degrees) drawn from `seed`. The letters
    come in shuffled rounds of 26, so every class is as frequent as any other. `split` "test" draws from seeds of its
    own: no seed makes it repeat what "train" drew. Raises `DataError` for a style or split that does not exist.
    """
    import numpy as np
    import torch

    if style not in FACES:
        raise DataError(f"Letters come in the styles {', '.join(STYLES)}; got {style!r}.{did_you_mean(style, STYLES)}")
    if split not in _SPLITS:
        raise DataError(f"Letters have the splits train and test; got {split!r}.{did_you_mean(split, _SPLITS)}")
    if count < 0 or size < 8:
        raise DataError(f"Letters need count >= 0 and size >= 8; got count={count}, size={size}.")
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


def _draw(
    glyph: Image, size: int, tall: float, wide: float, right: float, down: float, turn: float
) -> NDArray[np.float32]:
    """One rendering `[size, size]` in 0..255 of a master glyph; the five numbers in [0, 1) say how it is placed."""
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
    """A large greyscale glyph, cropped to its ink."""
    from PIL import Image, ImageDraw

    image = Image.new("L", (2 * _MASTER, 2 * _MASTER))
    ImageDraw.Draw(image).text((_MASTER // 2, _MASTER // 2), letter, fill=255, font=_font(face))
    left, top, right, bottom = image.getbbox() or (0, 0, 1, 1)
    # A rim of paper: bilinear resampling treats everything outside the source as paper only where a neighbour exists.
    return image.crop((left - 2, top - 2, right + 2, bottom + 2))


@lru_cache(maxsize=64)
def _font(face: str) -> FreeTypeFont:
    """A face at the master size. Basic layout: the optional shaping engine would make results depend on the machine."""
    from pathlib import Path

    import matplotlib
    from PIL import ImageFont

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"
    try:
        return ImageFont.truetype(str(path), _MASTER, layout_engine=ImageFont.Layout.BASIC)
    except OSError as error:
        raise DataError(
            f"Letters need matplotlib's font {face}.ttf, which is not at {path}; reinstall matplotlib."
        ) from error
