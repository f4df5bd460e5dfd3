"""How far the samples of two ways are apart, one by one: what was drawn from the same seed is comparable."""

from __future__ import annotations

from dataclasses import dataclass

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

    What a distance is, their kind says: of pictures the mean difference of a pixel, of texts the share of words and
    spaces that differ, of class probabilities the share that is on another class ("posterior"), or the mean difference
    of a probability.
    """
    if first.kind != second.kind or len(first) != len(second) or not len(first):
        return None
    shapes = [getattr(one.data, "shape", None) for one in (first, second)]
    if shapes[0] != shapes[1] or first.labels != second.labels:
        return None
    what, values = first.sample_kind.apart(first, second)
    return Apart(what, tuple(values))
