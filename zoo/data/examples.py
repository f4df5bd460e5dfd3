"""Examples of named parts, read from any table: which columns, which rows, which split, and the report of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from zoo.data.columns import find_columns
from zoo.data.report import Report, key_of
from zoo.data.sources import read_table
from zoo.data.spec import ALL, Data
from zoo.data.splits import divide, rows_of
from zoo.data.table import Table
from zoo.errors import DataError


@dataclass(frozen=True)
class Examples:
    """The examples of a table by what their parts are.

    Attributes:
        table: where they come from.
        names: what a column is → its name in the table.
        columns: what a column is → its values, for every example of every split.
        parts: split → the numbers of its examples.
        rule: how the splits were made, in words.
        chosen: the numbers of the examples of the split that was asked for.
        skipped: (which row was left out, why).
        notes: what else there is to say.
        keys: the key of each example.
    """

    table: Table
    names: Mapping[str, str]
    columns: Mapping[str, list[Any]]
    parts: Mapping[str, list[int]]
    rule: str
    chosen: Sequence[int]
    skipped: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
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
        parts = self.parts
        return Report(
            self.table.origin,
            unit,
            splits={split: len(rows) for split, rows in parts.items()},
            rule=self.rule,
            columns=self.names,
            unused=tuple(name for name in self.table.columns if name not in (*self.names.values(), "file")),
            classes=classes or {},
            skipped=(*self.table.skipped, *self.skipped),
            notes=(*self.table.notes, *self.notes, *notes),
            keys={split: [self.keys[row] for row in rows] for split, rows in parts.items()},
            served=tuple(split for split, rows in parts.items() if rows is self.chosen) or (ALL,),
        )


def read_examples(
    data: Data,
    needed: Sequence[str],
    optional: Sequence[str] = (),
    *,
    split: str,
    table: Table | None = None,
    may_be_empty: Sequence[str] = (),
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
        may_be_empty: what is needed and may be an empty text or list, such as a set of classes.
        check: a row by what its columns are → why it is skipped; None: it is used. An empty or missing value of
            what is needed is a reason in any case.
        stratify: a row → its class, of which every split gets its share.
        key: a row → what equal rows have in common; None: all of its values.

    Raises:
        DataError: a column is missing, no row can be used, the split has none, or a row cannot be used and
            `data.broken` is "refuse".
    """
    table = read_table(data, kind="text") if table is None else table
    names = find_columns(list(table.columns), needed, optional, given=data.columns, origin=table.origin)
    values = {role: list(table.columns[name]) for role, name in names.items()}
    kept: list[int] = []
    skipped: list[tuple[str, str]] = []
    for row in range(len(table)):
        one = {role: column[row] for role, column in values.items()}
        why = next((f"it has no {role}" for role in needed if is_missing(one[role], role in may_be_empty)), None)
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
    used = rows_only(table, kept, data.group)
    parts, rule = divide(used, data, groups=keys, labels=None if stratify is None else [stratify(row) for row in rows])
    chosen = rows_of(parts, split, data, table.origin)
    more = sum(count - 1 for count in Counter(keys).values()) if "all" not in parts and not used.splits else 0
    notes = (f"{more} of {len(keys)} examples are equal to another: all are used, in one split",) if more else ()
    return Examples(table, names, columns, parts, rule, chosen, tuple(skipped), (*notes, *_shared(parts, keys)), keys)


def rows_only(table: Table, rows: Sequence[int], group: str | None = None) -> Table:
    """Return what `divide` needs of some of a table's rows: their splits, and the column of groups, if it is there."""
    place = {row: i for i, row in enumerate(rows)}
    columns: dict[str, Sequence[Any]] = {"": rows}
    columns |= {name: [column[row] for row in rows] for name, column in table.columns.items() if name == group}
    splits = {split: [place[row] for row in own if row in place] for split, own in table.splits.items()}
    return Table(columns, table.origin, splits={split: own for split, own in splits.items() if own})


def is_missing(value: Any, may_be_empty: bool = False) -> bool:
    """Return whether a value is none, not a number, or, as it must not be, a text or list with nothing in it."""
    if value is None or (isinstance(value, float) and value != value):
        return True
    if may_be_empty:
        return False
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


def _shared(parts: Mapping[str, Sequence[int]], keys: Sequence[bytes]) -> list[str]:
    """Return what to say of examples that are held out and trained on, where the data's own splits share some."""
    trained = {keys[row] for row in parts.get("train", ())}
    counts = {split: sum(keys[row] in trained for row in rows) for split, rows in parts.items() if split != "train"}
    return [f"{n} of the {len(parts[split])} examples of {split} are in train too" for split, n in counts.items() if n]


def _first(skipped: Sequence[tuple[str, str]]) -> str:
    return f" ({skipped[0][0]}: {skipped[0][1]})" if skipped else ", as there are none"
