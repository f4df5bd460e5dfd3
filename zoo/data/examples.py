"""Examples of named parts, read from any table: which columns, which rows, which split, and the report of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.data.columns import find_columns
from zoo.data.division import Division, as_used, divide
from zoo.data.report import Report, key_of
from zoo.data.spec import Data
from zoo.data.table import Table
from zoo.errors import DataError


@dataclass(frozen=True)
class Examples:
    """The examples of a table by what their parts are.

    Attributes:
        table: where they come from.
        data: how it was to be read.
        names: what a column is → its name in the table.
        columns: what a column is → its values, for every example of every split.
        division: which examples are of which split.
        chosen: the numbers of the examples of the split that was asked for.
        skipped: (which row was left out, why).
        keys: the key of each example.
    """

    table: Table
    data: Data
    names: Mapping[str, str]
    columns: Mapping[str, list[Any]]
    division: Division
    chosen: Sequence[int]
    skipped: tuple[tuple[str, str], ...]
    keys: Sequence[bytes] = field(repr=False)

    def column(self, role: str) -> list[Any]:
        """Return the values of one column in the split that was asked for."""
        return [self.columns[role][row] for row in self.chosen]

    def report(self, unit: str, *, classes: Mapping[str, int] | None = None, notes: Sequence[str] = ()) -> Report:
        """Return what became of the table.

        Args:
            unit: what an example is, in the plural.
            classes: class → how many examples.
            notes: what else there is to say.
        """
        rows, rule = as_used(self.division.rows, self.division.rule, self.data)
        return Report(
            self.table.origin,
            unit,
            splits={split: len(found) for split, found in rows.items()},
            rule=rule,
            columns=self.names,
            unused=tuple(name for name in self.table.columns if name not in self.names.values()),
            classes=classes or {},
            skipped=(*self.table.skipped, *self.skipped),
            notes=(*self.table.notes, *self.division.notes, *notes),
            keys={split: [self.keys[row] for row in found] for split, found in rows.items()},
        )


def read_examples(
    data: Data,
    needed: Sequence[str],
    optional: Sequence[str] = (),
    *,
    split: str,
    table: Table | None = None,
    check: Callable[[Mapping[str, Any]], str | None] | None = None,
    stratify: Callable[[Mapping[str, Any]], Hashable] | None = None,
    key: Callable[[Mapping[str, Any]], bytes] | None = None,
) -> Examples:
    """Return the examples of what a user has, by what their columns are.

    Args:
        data: what the user has.
        needed: what has to be there, keys of `zoo.data.columns.USUAL`.
        optional: what may be.
        split: "train", "validation" or "test".
        table: the data, where they are read already.
        check: a row by what its columns are → why it is skipped; None: it is used. An empty or missing value of
            what is needed is a reason in any case.
        stratify: a row → its class, of which every split gets its share.
        key: a row → what equal rows have in common; None: all of its values.

    Raises:
        DataError: a column is missing, no row can be used, the split has none, or a row cannot be used and
            `data.broken` is "refuse".
    """
    table = table_of(data) if table is None else table
    names = find_columns(list(table.columns), needed, optional, given=data.columns, origin=table.origin)
    values = {role: list(table.columns[name]) for role, name in names.items()}
    groups = _groups(table, data.group)
    kept: list[int] = []
    skipped: list[tuple[str, str]] = []
    for row in range(len(table)):
        one = {role: column[row] for role, column in values.items()}
        why = next((f"it has no {role}" for role in needed if is_missing(one[role])), None)
        why = why or (check(one) if check else None)
        if why is None:
            kept.append(row)
        elif data.broken == "refuse":
            raise DataError(f"{table.origin}: row {row} cannot be used, {why}: mend it, or skip such rows")
        else:
            skipped.append((f"row {row}", why))
    if not kept:
        raise DataError(f"{table.origin}: none of its {len(table)} rows can be used{_first(skipped)}")
    columns = {role: [column[row] for row in kept] for role, column in values.items()}
    rows = [{role: column[i] for role, column in columns.items()} for i in range(len(kept))]
    keys = [key_of(*map(as_key, row.values())) if key is None else key_of(key(row)) for row in rows]
    place = {row: i for i, row in enumerate(kept)}
    own = {name: [place[row] for row in rows if row in place] for name, rows in table.splits.items()}
    labels = None if stratify is None else [stratify(row) for row in rows]
    division = divide(keys if groups is None else [groups[row] for row in kept], data, own=own, labels=labels)
    more = sum(count - 1 for count in Counter(keys).values()) if groups is None and len(own) < 2 else 0
    if more:
        said = f"{more} of {len(keys)} examples are equal to another: all are used, in one split"
        division = Division(division.rows, division.rule, (*division.notes, said))
    return Examples(
        table, data, names, columns, division, division.of(split, data, table.origin), tuple(skipped), keys
    )


def table_of(data: Data) -> Table:
    """Return what a user has as a table: a folder of text files, or whatever `zoo.data.sources` reads."""
    source = data.source
    if isinstance(source, Table):
        return source
    if isinstance(source, str | Path):
        from zoo.data.textfolder import text_folder

        root = Path(source).expanduser()
        if root.is_dir():
            found = text_folder(root, refuse=data.broken == "refuse")
            if found is not None:
                return found
    from zoo.data.sources import read_table

    return read_table(data)


def is_missing(value: Any) -> bool:
    """Return whether a value is none, not a number, or a text, list or the like with nothing in it."""
    if value is None or (isinstance(value, float) and value != value):
        return True
    if isinstance(value, str):
        return not value.strip()
    return isinstance(value, list | tuple | dict) and not value


def as_key(value: Any) -> bytes | str:
    """Return a value as what a key is made of."""
    if isinstance(value, str | bytes):
        return value
    if hasattr(value, "numpy"):
        value = value.detach().cpu().numpy()
    if hasattr(value, "tobytes"):
        return f"{value.dtype}{value.shape}".encode() + value.tobytes()
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=repr)


def _groups(table: Table, name: str | None) -> list[Hashable] | None:
    """Return the group of each row, those without one each of its own; None where the user names no column."""
    if name is None:
        return None
    if name not in table.columns:
        raise DataError(f"{table.origin}: has no column {name!r} to group by; it has {', '.join(table.columns)}")
    column = table.columns[name]
    return [("row", row) if is_missing(value) else ("group", str(value)) for row, value in enumerate(column)]


def _first(skipped: Sequence[tuple[str, str]]) -> str:
    return f" ({skipped[0][0]}: {skipped[0][1]})" if skipped else ", as there are none"
