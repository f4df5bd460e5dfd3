"""Samples of a model: pictures, texts or class probabilities, displayed and saved.

`samples.py` has `zoo.Samples` and the table of kinds: `images.py`, `texts.py`, `classes.py`. `pictures.py` draws grids.

Imports: `zoo.storage` and below. Start with `samples.py`.
"""

from __future__ import annotations

from zoo.samples.pictures import encode, grid, to_pictures
from zoo.samples.samples import Samples, sheet

__all__ = ["Samples", "encode", "grid", "sheet", "to_pictures"]
