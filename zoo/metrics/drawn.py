"""How far drawn pictures are from real ones, in a named feature space. Shapes: n pictures; d features."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import DataError
from zoo.metrics.distances import covered, sliced_wasserstein
from zoo.metrics.scores import Scores
from zoo.metrics.spaces import Space, space_of

DISTANCES = ("fid", "kid", "inception_score", "sliced_wasserstein", "precision", "recall")
_FEW = 100  # resamples of what takes long


def add_distances(scores: Scores, drawn: Tensor, real: Tensor, wanted: Collection[str], judge: Any = None) -> None:
    """Add those of DISTANCES that are wanted, each with the name of its feature space as a note.

    "fid" and "kid" are torchmetrics' Fréchet and kernel (inception) distances, "inception_score" the exponential of the
    mean divergence of a picture's classes from all pictures', "sliced_wasserstein" the mean first Wasserstein distance
    of projections, "precision" the share of drawn pictures within the real ones' manifold, "recall" the reverse. All
    but the last two are compared between equal numbers of pictures alone.

    Args:
        scores: where to add them.
        drawn: pictures [n, c, h, w] in [0, 1].
        real: as many real ones.
        wanted: names.
        judge: whose features, see `zoo.metrics.space_of`.

    Raises:
        DataError: there are too few pictures, or the judge cannot say.
    """
    wanted = [name for name in DISTANCES if name in wanted]
    if not wanted:
        return
    if len(drawn) != len(real) or len(drawn) < 2:
        raise DataError(
            f"{', '.join(wanted)} compare as many drawn pictures as real ones, at least 2; got {len(drawn)} drawn and "
            f"{len(real)} real ones: give more data"
        )
    space = space_of(judge)
    (mine, shares), (theirs, _) = space.read(drawn), space.read(real)
    for features in (mine, theirs):
        if not torch.isfinite(features).all():
            raise DataError(f"the {space.name} are not finite for these pictures: choose another judge")
    for name in wanted:
        _add(scores, name, space, (mine, theirs), shares)
        scores.note(name, f"in {space.name}, {mine.shape[1]} wide" if name != "inception_score" else f"by {space.name}")


def _add(scores: Scores, name: str, space: Space, features: tuple[Tensor, Tensor], shares: Tensor | None) -> None:
    mine, theirs = features
    if name == "fid":
        scores.add(name, _fid, mine, theirs, resamples=_FEW, biased=True)
    elif name == "kid":
        scores.add(name, _kid, mine, theirs, resamples=_FEW, biased=True)
    elif name == "sliced_wasserstein":
        scores.add(name, sliced_wasserstein, mine, theirs, resamples=_FEW, biased=True)
    elif name == "precision":
        scores.mean(name, covered(mine, theirs))
    elif name == "recall":
        scores.mean(name, covered(theirs, mine))
    elif shares is None:
        raise DataError(f"inception_score needs the probabilities of classes, and {space.name} have none: give a judge")
    else:
        scores.add(name, _inception_score, shares.double().clamp_min(1e-12).log(), resamples=_FEW, biased=True)


class _Identity(nn.Module):
    """Features as they are, for metrics that expect a network."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        return features


def _fid(mine: Tensor, theirs: Tensor) -> Tensor:
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=_Identity(mine.shape[1])).set_dtype(torch.float64)
    metric.update(theirs.double(), real=True)
    metric.update(mine.double(), real=False)
    found: Tensor = metric.compute()
    return found.clamp(min=0)


def _kid(mine: Tensor, theirs: Tensor) -> Tensor:
    from torchmetrics.image.kid import poly_mmd

    return poly_mmd(theirs.double(), mine.double())  # of all pictures at once, and not of random subsets


def _inception_score(logarithms: Tensor) -> Tensor:
    from torchmetrics.image.inception import InceptionScore

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it keeps the features
        metric = InceptionScore(feature=_Identity(logarithms.shape[1]), splits=1)
        metric.update(logarithms)
        found: Tensor = metric.compute()[0]
    return found
