"""Samples: what a model draws (pictures, texts, class probabilities), how it is shown and saved.

`samples.py` holds `zoo.Samples`, `pictures.py` draws pictures, `classes.py` shows class probabilities.

Imports: `zoo.storage` and below. Start with `samples.py`.
"""

from __future__ import annotations

from zoo.samples.pictures import encode, grid, to_pictures
from zoo.samples.samples import Samples, sheet

__all__ = ["Samples", "encode", "grid", "sheet", "to_pictures"]
