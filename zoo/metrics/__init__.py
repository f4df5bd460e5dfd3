"""How good a model is: figures with their intervals, and how two models differ on the same examples.

A plugin collects values or states of each example in `Scores`; what comes out is `Figures`, a dict of floats that also
knows the number of examples and, by resampling them, an interval for each figure. The metrics themselves are those of
torchmetrics where it has them.

Imports: `torch_state`, `bounded`, `errors`. Start with `scores.py`.
"""

from __future__ import annotations

from zoo.metrics.classes import add_classification
from zoo.metrics.directions import rises
from zoo.metrics.drawn import add_distances
from zoo.metrics.figures import Figures
from zoo.metrics.frechet import frechet_distance
from zoo.metrics.judge import Judge, accuracy, judged, read
from zoo.metrics.paired import Difference, Differences, paired
from zoo.metrics.pictures import add_likeness
from zoo.metrics.scores import Scores
from zoo.metrics.spaces import Space, space_of
from zoo.metrics.texts import add_answers
from zoo.metrics.tokens import TokenScores

__all__ = [
    "Difference",
    "Differences",
    "Figures",
    "Judge",
    "Scores",
    "Space",
    "TokenScores",
    "accuracy",
    "add_answers",
    "add_classification",
    "add_distances",
    "add_likeness",
    "frechet_distance",
    "judged",
    "paired",
    "read",
    "rises",
    "space_of",
]
