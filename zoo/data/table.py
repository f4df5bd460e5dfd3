"""Rows of named columns: what every source is read as before anything is chosen from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

from zoo.errors import DataError


@dataclass(frozen=True)
class Table:
    """Rows of named columns, of which large ones stay closed until a row is asked for.

    Attributes:
        columns: name → the values of all rows, n of each: a list, a tensor, a column of a dataset.
        origin: what messages call the source.
        classes: column → the names of its numbers, in order, where the source declares them (class folders, a
            dataset's ClassLabel).
        splits: "train", "validation", "test" → the rows of the split, where the source has splits of its own.
        skipped: (what was left out, why), such as ("cat/b.png", "it is truncated").
        notes: what else a reader of the source should know.
    """

    columns: Mapping[str, Sequence[Any]]
    origin: str
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    splits: Mapping[str, Sequence[int]] = field(default_factory=dict)
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        lengths = {name: len(column) for name, column in self.columns.items()}
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"{name}: {length}" for name, length in lengths.items())
            raise DataError(f"{self.origin}: expected columns of one length, got {found}: give a value for each row")

    def __len__(self) -> int:
        return next((len(column) for column in self.columns.values()), 0)

    def only(self, rows: Sequence[int]) -> Table:
        """Return a table of some of the rows, in the order given; nothing is copied."""
        place = {row: i for i, row in enumerate(rows)}
        splits = {split: [place[row] for row in found if row in place] for split, found in self.splits.items()}
        columns = {name: Rows(column, rows) for name, column in self.columns.items()}
        return replace(self, columns=columns, splits=splits)


class Rows(Sequence[Any]):
    """Some of a column's values, each read when it is asked for."""

    def __init__(self, column: Sequence[Any], rows: Sequence[int]) -> None:
        self.column, self.rows = column, rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self.column[row] for row in self.rows[index]]
        return self.column[self.rows[index]]
