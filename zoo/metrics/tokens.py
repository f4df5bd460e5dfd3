"""Metrics of predicted tokens, from torchmetrics, row by row. Shapes: m places to predict, a vocabulary of v tokens."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from zoo.metrics.classes import TOP, right
from zoo.metrics.resampling import RESAMPLES
from zoo.metrics.scores import Scores
from zoo.metrics.statistics import States

_MOST = 2**24  # logits that are looked at in double precision at once


class TokenScores:
    """The metrics "perplexity" and "loss" of tokens, and where it is wanted "accuracy"; an example is a row.

    Args:
        unit: what a row is, in the plural.
        accuracy: whether to add the share of places whose likeliest token is the right one.
        top: whether to add "top5_accuracy", the share of those whose token is among the five likeliest.
    """

    def __init__(self, unit: str, *, accuracy: bool = False, top: bool = False) -> None:
        from torchmetrics.text import Perplexity

        self.unit, self.tops = unit, ([1] if accuracy else []) + ([TOP] if top else [])
        self.perplexity = States(Perplexity().set_dtype(torch.float64), RESAMPLES)
        self.hits: dict[int, list[float]] = {top: [] for top in self.tops}

    def add(self, logits: Tensor, tokens: Tensor, counts: Sequence[int] | Tensor) -> TokenScores:
        """Add some rows, and return the scores.

        Args:
            logits: [m, v], of the places of one row after the other.
            tokens: int64 [m], what is to be predicted.
            counts: how many places each row has.
        """
        counts = counts.tolist() if isinstance(counts, Tensor) else [int(count) for count in counts]
        logits = logits.detach()
        for part, wanted in zip(logits.split(counts), tokens.split(counts), strict=True):
            if len(wanted):
                self._add_row(part, wanted)
        for top, hits in self.hits.items():
            found = right(logits, tokens, top).split(counts)
            hits += torch.stack([one.sum() for one in found if len(one)]).double().tolist() if len(tokens) else []
        return self

    def join(self, parts: Iterable[TokenScores]) -> None:
        """Add the rows of others, made with the same arguments."""
        for part in parts:
            self.perplexity.extend(part.perplexity)
            for top, hits in self.hits.items():
                hits += part.hits[top]

    def _add_row(self, logits: Tensor, tokens: Tensor) -> None:
        rows = max(1, _MOST // logits.shape[-1])
        metric = self.perplexity.metric
        metric.reset()
        if logits.device.type == "mps":  # which has no double precision
            logits, tokens = logits.cpu(), tokens.cpu()
        for part, wanted in zip(logits.split(rows), tokens.split(rows), strict=True):
            # In double precision: in single one, a token of less than e^-103 would have no probability at all.
            metric.to(part.device).update(part[None].double(), wanted[None])
        self.perplexity.keep()

    def scores(self) -> Scores:
        """Return the scores, to which others can be added."""
        scores = Scores(self.unit)
        for top, hits in self.hits.items():
            scores.ratio("accuracy" if top == 1 else "top5_accuracy", hits, self.counts)
        scores.put("perplexity", self.perplexity)
        scores.ratio("loss", self.nats, self.counts)
        return scores

    @property
    def nats(self) -> Tensor:
        """The negative log-likelihood of each row, float64 [rows]."""
        return self.perplexity.state("total_log_probs").double().cpu()

    @property
    def counts(self) -> Tensor:
        """The places of each row, float64 [rows]."""
        return self.perplexity.state("count").double().cpu()

    def bits_per_byte(self, scores: Scores, size: int) -> None:
        """Add "bits_per_byte" of a text of `size` bytes; a row counts as many of them as it has of the tokens."""
        counts = self.counts
        scores.ratio("bits_per_byte", self.nats / math.log(2), counts * (size / float(counts.sum())))
