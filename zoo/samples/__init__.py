"""Samples of a model: pictures, texts, class probabilities or a kind of a plugin's own, displayed and saved.

`kind.py` has `zoo.SampleKind`, what a kind is, and `files.py` the types of its files; `samples.py` has `zoo.Samples`
and the table of zoo's own kinds: `images.py`, `texts.py`, `classes.py`. `showing.py` shows samples of any kind,
`pictures.py` draws grids, `sheet.py` rows of them.

Imports: `zoo.storage` and below. Start with `samples.py`.
"""

from __future__ import annotations

from zoo.samples.kind import Clip, SampleKind, Shown
from zoo.samples.pictures import encode, grid, to_pictures
from zoo.samples.samples import Samples
from zoo.samples.sheet import sheet
from zoo.samples.showing import data_address

__all__ = ["Clip", "SampleKind", "Samples", "Shown", "data_address", "encode", "grid", "sheet", "to_pictures"]
