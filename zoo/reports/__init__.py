"""Pages that are read in a browser, without a network: one HTML file with its style, charts and pictures in it.

`page.py` has `Page`, to which sections are added one by one; `tables.py`, `charts.py` (curves and points, as SVG) and
`figures.py` (pictures, texts, samples side by side) make what stands in them, `numbers.py` says how a number is
written, and `markup.py` escapes everything that is not ours.

Imports: `zoo.samples`, `zoo.storage` and below. Start with `page.py`.
"""

from __future__ import annotations

from zoo.reports.charts import Point, Series, curves, points
from zoo.reports.figures import only_pictures, picture, sample_cells, samples_table, text_block
from zoo.reports.markup import Markup, element
from zoo.reports.numbers import Interval, byte_size, duration, number
from zoo.reports.page import Page
from zoo.reports.tables import facts, table

__all__ = [
    "Interval",
    "Markup",
    "Page",
    "Point",
    "Series",
    "byte_size",
    "curves",
    "duration",
    "element",
    "facts",
    "number",
    "only_pictures",
    "picture",
    "points",
    "sample_cells",
    "samples_table",
    "table",
    "text_block",
]
