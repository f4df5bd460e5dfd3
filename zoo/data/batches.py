"""Batches of which some can be passed over without being made, as processes that share them do, and resumed runs.

And what is done with one of them: on a device, seeded by its number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
U = TypeVar("U")


class Batches(Iterator[T], Generic[T]):
    """Batches that are made of rows when they are asked for.

    Rows are what is cheap, such as the numbers of the chosen items; what is costly (opening files, rendering, drawing
    noise) belongs into `map`, as batches that are passed over are never mapped.

    Attributes:
        number: of the next batch, from 0.

    >>> squares = Batches([1, 2, 3, 4]).map(lambda row, number: (number, row * row))
    >>> squares.skip(2)
    >>> list(squares)
    [(2, 9), (3, 16)]
    """

    def __init__(self, rows: Iterable[Any], make: Callable[[Any, int], T] | None = None) -> None:
        self._rows, self._make = iter(rows), make
        self.number = 0

    def __next__(self) -> T:
        row, number = next(self._rows), self.number
        self.number += 1
        return row if self._make is None else self._make(row, number)

    def skip(self, count: int) -> None:
        """Pass over `count` batches.

        Raises:
            StopIteration: there are fewer.
        """
        skip(self._rows, count)
        self.number += count

    def map(self, change: Callable[[T, int], U]) -> Batches[U]:
        """Return the batches changed: `change` gets each one and its number, from 0, and must depend on nothing else.

        What it draws should come from `generator_of(seed, number)`, so that a batch is the same whichever were passed
        over.
        """
        return Batches(self, change)


def skip(batches: Iterator[Any], count: int) -> None:
    """Pass over `count` items of an iterator: by its own method `skip` where it has one, else by making them.

    Raises:
        StopIteration: there are fewer.
    """
    own = getattr(batches, "skip", None)
    if own is not None:
        own(count)
        return
    for _ in range(count):
        next(batches)


def on_device(batch: Any, device: torch.device) -> Any:
    """Return a batch with its tensors, in nested dicts, lists and objects with `.to`, on `device`."""
    if device.type == "cpu":
        return batch
    from accelerate.utils import send_to_device

    return send_to_device(batch, device)


def seed_of(seed: int, number: int) -> int:
    """Return the seed, below 2**63, of what is drawn for the batch `number` of those that are seeded by `seed`."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {number}".encode(), digest_size=8).digest(), "little") >> 1


def generator_of(seed: int, number: int) -> torch.Generator:
    """Return the generator of what is drawn for one batch: the same for a seed and a number, whatever came before."""
    import torch

    return torch.Generator().manual_seed(seed_of(seed, number))
