"""Rows that pass by: what does not fit in memory and cannot be indexed."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from zoo.data.spec import HOLD_OUT
from zoo.data.splits import rank
from zoo.data.table import Table
from zoo.errors import DataError

Row = Mapping[str, Any]
GATHERED = 100_000  # rows of a stream that a table may have
SHUFFLED = 1000  # rows among which the order is drawn


@dataclass(frozen=True)
class Stream:
    """Rows of named columns that can be gone through, as often as wanted, and not indexed.

    Attributes:
        origin: what messages call the source.
        columns: the names of the columns.
        passes: "train", "validation", "test" → a function that begins a pass over the rows; of "train" alone where the
            source has no splits of its own.
        classes: column → the names of its numbers, where the source declares them.
        notes: what else a reader of the source should know.
    """

    origin: str
    columns: tuple[str, ...]
    passes: Mapping[str, Callable[[], Iterable[Row]]]
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def rows(
        self, split: str, *, key: Callable[[Row], Hashable], hold_out: float = HOLD_OUT, seed: int = 0
    ) -> Iterator[Row]:
        """Yield the rows of a split, one pass: its own, else those that the rank of their key holds out or not.

        Args:
            split: "train", "validation" or "test".
            key: row → what equal rows have in common, or the group that stays together.
            hold_out: the share of the rows that is kept for evaluation.
            seed: of the split.

        Raises:
            DataError: the source has other splits only; when the first row is asked for.
        """
        other = {"validation": "test", "test": "validation"}.get(split, split)
        own = split if split in self.passes else other
        if own in self.passes and (own != "train" or len(self.passes) > 1):
            yield from self.passes[own]()
        elif "train" in self.passes:
            for row in self.passes["train"]():
                if (rank(key(row), seed) < hold_out) == (split != "train"):
                    yield row
        else:
            raise DataError(f"{self.origin}: has no split {split!r}, only {', '.join(self.passes)}")

    def shuffled(self, rows: Callable[[], Iterable[Row]], *, seed: int, size: int = SHUFFLED) -> Iterator[Row]:
        """Yield rows without end, pass after pass, each drawn from the `size` rows that are next.

        Raises:
            DataError: a pass has no row.
        """
        drawn = random.Random(seed)
        while True:
            waiting: list[Row] = []
            empty = True
            for row in rows():
                empty = False
                waiting.append(row)
                if len(waiting) >= size:
                    yield _take(waiting, drawn)
            while waiting:
                yield _take(waiting, drawn)
            if empty:
                raise DataError(f"{self.origin}: a pass over the stream has no example: give one that can be repeated")


def gathered(stream: Stream, limit: int = GATHERED) -> Table:
    """Return a stream's rows as a table.

    Raises:
        DataError: there are more than `limit`, or none.
    """
    columns: dict[str, list[Any]] = {}
    splits, count = {}, 0
    for split, begin in stream.passes.items():
        start = count
        for row in islice(begin(), limit + 1 - count):
            columns = columns or {name: [] for name in row}
            if row.keys() != columns.keys():
                raise DataError(
                    f"{stream.origin}: row {count} has the fields {', '.join(row)}, others {', '.join(columns)}: "
                    "give every row the same"
                )
            for name, value in row.items():
                columns[name].append(value)
            count += 1
        splits[split] = range(start, count)
    if count > limit:
        raise DataError(
            f"{stream.origin}: is a stream of more than {limit} examples, which are not read as a table here: "
            "give fewer (.take(n)), or a dataset that can be indexed"
        )
    if not count:
        raise DataError(f"{stream.origin}: holds nothing: give at least one example")
    return Table(columns, stream.origin, stream.classes, splits if len(splits) > 1 else {}, notes=stream.notes)


def _take(waiting: list[Row], drawn: random.Random) -> Row:
    chosen = drawn.randrange(len(waiting))
    waiting[chosen], waiting[-1] = waiting[-1], waiting[chosen]
    return waiting.pop()
