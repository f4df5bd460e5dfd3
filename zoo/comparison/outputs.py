"""How far the samples of two ways are apart, one by one: what was drawn from the same seed is comparable."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import SequenceMatcher

from zoo.samples import Samples


@dataclass(frozen=True)
class Apart:
    """How far samples are from those of another way.

    Attributes:
        what: what a value is: "mean difference of pixels (0 to 1)".
        values: of each sample; 0: they are equal.
    """

    what: str
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean of all samples."""
        return sum(self.values) / len(self.values)

    @property
    def equal(self) -> int:
        """How many samples are equal."""
        return sum(value == 0 for value in self.values)


def apart(first: Samples, second: Samples) -> Apart | None:
    """Return how far each sample of `first` is from the one of `second` at its place; None if they cannot be compared.

    Of pictures it is the mean difference of a pixel, of texts the share of words and spaces that differ, of class
    probabilities the share that is on another class ("posterior"), or the mean difference of a probability.
    """
    if first.kind != second.kind or len(first) != len(second) or not len(first):
        return None
    if first.kind == "text":
        pairs = zip(first.data, second.data, strict=True)
        return Apart("share of words that differ", tuple(_words_apart(one, other) for one, other in pairs))
    if first.data.shape != second.data.shape or first.labels != second.labels:
        return None
    distances = (first.data.float() - second.data.float()).cpu().abs().flatten(1)
    if first.kind == "posterior":
        return Apart("share of the probability on another class", tuple((distances.sum(1) / 2).tolist()))
    what = "mean difference of pixels (0 to 1)" if first.kind == "image" else "mean difference of a probability"
    return Apart(what, tuple(distances.mean(1).tolist()))


def _words_apart(one: str, other: str) -> float:
    words, others = (re.findall(r"\s+|\S+", text) for text in (one, other))
    return 1.0 - SequenceMatcher(None, words, others, autojunk=False).ratio() if words or others else 0.0
