"""The batches of a run: opened once, with what their data say, and compared when a run is resumed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo.data.report import Report, collecting
from zoo.data.spec import Data, as_data
from zoo.errors import DataError, TuningError
from zoo.torch_state.rng import IsolatedIterator

_WHOLE = 2**20  # values of a tensor that are all digested; of a larger one as many, evenly spread
_MOST_EPOCHS = 10**9
DIGESTS = 1 << 128
_DEEPEST = 8  # objects within objects of a batch


class Drawn(NamedTuple):
    """Digests of batches: of all so far, and of those of the newest step."""

    all: int
    newest: int


class Examples:
    """The endless batches of a run, numbered, whose first one is drawn at once, so that unreadable data show now.

    Attributes:
        reports: what the data room says of each source.
        items: how many items are one pass over the data; None where the batches do not say.
        number: of the first batch that was not drawn or passed over yet.
        digest: of the batches that were drawn so far, each with its number; below 2**128, and those of several
            processes add up.
    """

    def __init__(self, batches: IsolatedIterator, reports: list[Report], items: int | None, first: list[Any]) -> None:
        self.reports, self.items = reports, items
        self.number, self.digest = 0, 0
        self._batches, self._first = batches, first  # the first one is batch 0, or there is none

    def take(self, number: int) -> Any:
        """Return the batch of this number, which is not below `self.number`; those before it are passed over.

        Raises:
            StopIteration: there is none.
        """
        self.skip(number)
        batch = without_gradients(self._first.pop() if self._first else next(self._batches))
        self.number += 1
        self.digest = (self.digest + digest_of(number, batch)) % DIGESTS
        return batch

    def skip(self, number: int) -> None:
        """Pass over the batches below this number."""
        if number > self.number and self._first:
            self._first.pop()
            self.number += 1
        if number > self.number:
            self._batches.skip(number - self.number)
            self.number = number

    @property
    def content(self) -> str:
        """A digest of all the examples that the sources have; "" where they do not say."""
        return " ".join(report.digest for report in self.reports if report.digest)


def digest_of(number: int, batch: Any) -> int:
    """Return a digest, below 2**128, of a batch with its number."""
    hashed = hashlib.blake2b(str(number).encode(), digest_size=16)
    for part in parts_of(batch):
        hashed.update(part)
    return int.from_bytes(hashed.digest(), "little")


def opened(make: Any, seed: int) -> Examples:
    """Return the batches that `make()` gives, drawing from generators of their own that are seeded by `seed`."""
    with collecting() as reports:
        batches = IsolatedIterator(make, seed)
        first = []
        for batch in batches:
            first.append(batch)
            break
    return Examples(batches, list(reports), reports.items, first)


def held_out_of(data: Any, reports: list[Report]) -> Any:
    """Return what a run's data hold out to choose by: their split "validation" where they have one, else "test"."""
    if any("validation" in report.splits for report in reports):
        return replace(as_data(data), split="validation")
    return data


def steps_of(epochs: float, items: int | None, batch: int) -> int:
    """Return the steps of `batch` items each that are so many passes over `items`.

    Raises:
        TuningError: `epochs` is no number above 0, or the batches do not say what a pass is.
    """
    if isinstance(epochs, bool) or not isinstance(epochs, int | float) or not 0 < epochs <= _MOST_EPOCHS:
        raise TuningError(f"expected epochs as a number above 0, at most {_MOST_EPOCHS:,}, got {epochs!r:.40}")
    if items is None:
        raise TuningError(
            "the data do not say how many items a pass over them has (they are drawn anew, or a stream): give steps "
            "instead of epochs"
        )
    return max(1, math.ceil(epochs * items / batch))


def batch_of(examples: Examples, number: int, place: str) -> Any:
    """Return the batch of this number.

    Raises:
        DataError: there is none, which `place`, the step in words, is told of.
    """
    try:
        return examples.take(number)
    except StopIteration:
        raise DataError(
            f'the batches ended before {place}: expected an endless stream for split="train"; is there any data in it?'
        ) from None


def shares(batches: list[Any], counts: list[float], total: float, place: str) -> list[tuple[Any, float]]:
    """Return the batches that count, each with its share of `total`, so that their losses add up to that of one batch.

    Args:
        batches: of one step.
        counts: what the loss of each is the mean of.
        total: of all the counts; with several processes the mean of theirs.
        place: the step in words.

    Raises:
        DataError: nothing counts.
    """
    if not total > 0:
        raise DataError(f"nothing counts in the batches of {place}: every label is masked")
    return [(batch, count / total) for batch, count in zip(batches, counts, strict=True) if count]


def without_gradients(value: Any) -> Any:
    """Return data or a batch whose tensors have no graph: they are what is trained on, and not what trains.

    Containers are made anew only where a tensor in them has one.
    """
    if isinstance(value, Tensor):
        return value.detach() if value.requires_grad else value
    if isinstance(value, Data):
        source = without_gradients(value.source)
        return value if source is value.source else replace(value, source=source)
    if type(value) is dict:
        changed = {name: without_gradients(part) for name, part in value.items()}
        return value if all(changed[name] is part for name, part in value.items()) else changed
    if type(value) in (list, tuple):
        parts = [without_gradients(part) for part in value]
        return value if all(new is old for new, old in zip(parts, value, strict=True)) else type(value)(parts)
    return value


def parts_of(value: Any, depth: int = 0) -> Iterator[bytes]:
    """Yield a batch's content as bytes: of tensors all values or an even part of them, of other things their text."""
    if isinstance(value, Tensor) and value.layout != torch.strided:
        yield from parts_of(value.detach().to_dense(), depth)
    elif isinstance(value, Tensor):
        yield f"{value.dtype}{tuple(value.shape)}".encode()
        flat = value.detach().reshape(-1)
        step = -(-flat.numel() // _WHOLE) or 1
        yield flat[::step].cpu().contiguous().view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield str(name).encode()
            yield from parts_of(part, depth + 1)
    elif isinstance(value, str | bytes | int | float | bool | None):
        yield repr(value).encode()
    elif isinstance(value, Iterable) and not isinstance(value, Iterator):
        yield f"[{type(value).__name__}".encode()
        for part in value:
            yield from parts_of(part, depth + 1)
    elif hasattr(value, "__dict__") and depth < _DEEPEST:
        yield type(value).__name__.encode()
        yield from parts_of({name: part for name, part in vars(value).items() if not callable(part)}, depth + 1)
