"""Figures of agreement and of tasks, each with its 95 % interval."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

NORMAL = 1.959964  # 97.5 % quantile of the standard normal distribution
RESAMPLINGS = 400


class Figure(NamedTuple):
    """A measured value and the ends of its 95 % interval over the inputs.

    The intervals count every input as drawn by itself; crops of one photograph, and clips of one voice, are more alike
    than that.
    """

    value: float
    low: float
    high: float

    def scaled(self, factor: float) -> Figure:
        """Return the figure in another unit."""
        return Figure(*(factor * one for one in self))


def share(hits: Tensor) -> Figure:
    """Return how many of `hits` (n) are true, from 0 to 1, with Wilson's interval (1927)."""
    n, p = hits.numel(), hits.double().mean().item()
    spread = NORMAL * math.sqrt(p * (1 - p) / n + NORMAL**2 / (4 * n**2))
    middle, below = p + NORMAL**2 / (2 * n), 1 + NORMAL**2 / n
    return Figure(p, (middle - spread) / below, (middle + spread) / below)


def mean(values: Tensor) -> Figure:
    """Return the mean of `values` (n) with the interval of the normal approximation."""
    values = values.double().flatten()
    middle = values.mean().item()
    spread = NORMAL * values.std().item() / math.sqrt(values.numel()) if values.numel() > 1 else math.inf
    return Figure(middle, middle - spread, middle + spread)


def top1(reference: Tensor, scores: Tensor) -> Figure:
    """Return the share of inputs whose largest score (n, classes) is in the same place."""
    return share(reference.argmax(1) == scores.argmax(1))


def divergence(reference: Tensor, logits: Tensor) -> Figure:
    """Return the mean Kullback-Leibler divergence of softmax(logits) from softmax(reference) (n, classes), in nats."""
    wanted, found = reference.double().log_softmax(1), logits.double().log_softmax(1)
    return mean(F.kl_div(found, wanted, reduction="none", log_target=True).sum(1))


def cosine(reference: Tensor, vectors: Tensor) -> Figure:
    """Return the mean cosine of vectors (n, features) with those of the reference."""
    return mean(F.cosine_similarity(reference.double(), vectors.double(), dim=1))


def difference(reference: Tensor, values: Tensor) -> Figure:
    """Return the mean absolute difference of two tensors of one shape."""
    return mean((reference.double() - values.double()).abs())


def equal_error_rate(scores: Tensor, same: Tensor) -> float:
    """Return the rate at which pairs are refused and let through equally often.

    Args:
        scores: similarities of pairs (pairs).
        same: whether a pair is of one class (pairs).
    """
    order = scores.argsort()
    positives, negatives = same[order].double(), (~same[order]).double()
    zero = torch.zeros(1, dtype=torch.float64)
    refused = torch.cat([zero, positives.cumsum(0)]) / positives.sum()  # threshold above the i lowest scores
    passed = 1 - torch.cat([zero, negatives.cumsum(0)]) / negatives.sum()
    at = (refused - passed).abs().argmin()
    return ((refused[at] + passed[at]) / 2).item()


def verification(vectors: Tensor, classes: Tensor, seed: int = 0) -> Figure:
    """Return the equal error rate over all pairs of vectors; its interval is a bootstrap over the vectors.

    Args:
        vectors: unit vectors (n, features).
        classes: whose each of them is (n).
        seed: of the bootstrap.
    """

    def rate(chosen: Tensor) -> float:
        rows, columns = torch.triu_indices(len(chosen), len(chosen), 1)
        a, b = chosen[rows], chosen[columns]
        a, b = a[a != b], b[a != b]  # a vector that was drawn twice is no pair
        return equal_error_rate(similar[a, b], classes[a] == classes[b])

    similar = vectors.double() @ vectors.double().T
    generator = torch.Generator().manual_seed(seed)
    n = len(vectors)
    drawn = [rate(torch.randint(n, (n,), generator=generator)) for _ in range(RESAMPLINGS)]
    low, high = torch.tensor(drawn).quantile(torch.tensor([0.025, 0.975])).tolist()
    return Figure(rate(torch.arange(n)), low, high)
