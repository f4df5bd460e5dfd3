"""The bootstrap: examples drawn with replacement, as many as there are, and the interval of what they give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

LEVEL = 0.95
RESAMPLES = 1000
SEED = 0


def draws(n: int, resamples: int, seed: int = SEED) -> Iterator[Tensor]:
    """Yield `resamples` times n numbers below n, int64 [n]: the examples of one resample.

    Equal arguments give equal draws, so that two models are resampled alike.
    """
    generator = torch.Generator().manual_seed(seed)
    for _ in range(resamples):
        yield torch.randint(n, (n,), generator=generator)


def interval(values: Sequence[float], level: float = LEVEL, *, around: float | None = None) -> tuple[float, float]:
    """Return the percentiles between which `level` of the resampled values lie.

    Args:
        values: of the resamples.
        level: the share between the two.
        around: the figure itself, for a statistic whose values in resamples are off from it on one side, as a distance
            of distributions is (examples that come twice look like less variety): the values are then moved so that
            their mean is the figure. None: they are taken as they are.
    """
    found = torch.tensor(values, dtype=torch.float64)
    if around is not None:
        found = found - found.mean() + around
    low, high = torch.quantile(found, torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)).tolist()
    return low, high
