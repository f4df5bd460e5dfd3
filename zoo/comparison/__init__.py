"""Several ways to make one model better or smaller, measured alike and put side by side in a report: `zoo.compare`.

Every way (a precision, LoRA in a precision, full fine-tuning, an adapter merged) is a cell that a process of its own
measures, so that its memory is its own; a cell that is finished is kept.

Imports: `loading` and all below. Start with `run.py`.
"""

from __future__ import annotations

from zoo.comparison.grid import Plan, Way, ways
from zoo.comparison.results import Comparison
from zoo.comparison.run import compare

__all__ = ["Comparison", "Plan", "Way", "compare", "ways"]
