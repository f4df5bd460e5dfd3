"""The labels of a table's rows, by name wherever there are names; `classes_of` says which classes data have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo.data.classes import bind_classes, in_order
from zoo.data.columns import find_columns
from zoo.data.sources import read_table
from zoo.data.spec import Data, as_data
from zoo.data.table import Table
from zoo.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

_SHOWN = 5


@dataclass(frozen=True)
class Labels:
    """The classes of n rows.

    Attributes:
        numbers: of each row: its place among `classes`, or as the data have it where `classes` is (); None: the row has
            no label (also -1, as datasets mark it).
        classes: the names, in order, where the data have names.
        used: of each row, whether its class is one of those that the user wants.
        notes: what was left out or renamed.
    """

    numbers: list[int | None]
    classes: tuple[str, ...] = ()
    used: tuple[bool, ...] = ()
    notes: tuple[str, ...] = ()

    def names(self) -> list[str | None]:
        """Return the name of each row's class, its number where it has none."""
        return [
            None if number is None else self.classes[number] if self.classes else str(number) for number in self.numbers
        ]


def read_labels(table: Table, column: str, given: Data) -> Labels:
    """Return the classes of a table's rows, of those and under those names that `given.classes` says.

    Texts are names, also those of digits; numbers are names where the source declares them, else numbers.

    Raises:
        DataError: a value is neither a text nor a whole number, or the user names a class that the data lack.
    """
    declared = table.classes.get(column, ())
    values = _plain_values(table.columns[column])
    texts = [isinstance(value, str) for value in values if value is not None]
    if texts and all(texts):
        names: list[str | None] = [None if value is None or value == "" else str(value).strip() for value in values]
    elif any(texts):
        raise DataError(f"{table.origin}: column {column!r} has texts and numbers as classes: make all of them texts")
    else:
        numbers = [_number(value, table.origin, column) for value in values]
        if declared and max((n for n in numbers if n is not None), default=0) >= len(declared):
            raise DataError(f"{table.origin}: column {column!r} has labels beyond its {len(declared)} classes")
        if not declared and given.classes is None:
            return Labels(numbers, (), (True,) * len(numbers))
        names = [None if n is None else declared[n] if declared else str(n) for n in numbers]
    known = list(declared) or in_order({name for name in names if name is not None})
    return _chosen(names, known, given, table.origin)


def bound(
    labels: Tensor | None,
    classes: Sequence[str],
    *,
    count: int,
    model: str,
    names: Sequence[str] = (),
    also: Mapping[str, int] | None = None,
) -> tuple[Tensor | None, str]:
    """Return labels as a model numbers its classes, int64 [n], and what to say of it; None for a model without any.

    Args:
        labels: int64 [n] as the data have them, or None where they have none.
        classes: the data's names of them, () where they have none: then labels are the model's numbers.
        count: how many classes the model has; 0: none.
        model: what messages call it.
        names: its classes' names, in order, where it has names.
        also: further names of its classes → number.

    Raises:
        DataError: the data have no labels, or some that are none of the model's classes.
    """
    import torch

    from zoo.data.labels import check_labels

    if not count:
        said = f"{model} has no classes: those of the data are not used" if labels is not None else ""
        return None, said
    if labels is None or not classes:
        return check_labels(labels, count=count, model=model), ""
    own = list(names) if names else [str(i) for i in range(count)]
    numbers, said = bind_classes(list(classes), own, model=model, also=also)
    return torch.tensor(numbers, dtype=torch.int64)[labels], said


def classes_of(data: Any, *, kind: str = "any") -> tuple[str, ...]:
    """Return the names of the classes that data have, all splits together, in order: for a new head.

    Labels that are numbers alone are "0", "1", … up to the highest.

    Args:
        data: whatever `zoo.data.sources.read_table` takes, or a name of letters.
        kind: "image" or "text", as there.

    Raises:
        DataError: the data cannot be read, or have no labels.
    """
    from zoo.data import letters

    given = as_data(data)
    if isinstance(given.source, str) and given.source.startswith(letters.PREFIX):
        return tuple(letters.LETTERS)
    table = read_table(given, kind=kind)
    if given.columns.get("label"):
        wanted = {"label": given.columns["label"]}
    else:
        wanted = {}
    column = find_columns(list(table.columns), ("label",), given=wanted, origin=table.origin)["label"]
    labels = read_labels(table, column, given)
    found = {number for number, used in zip(labels.numbers, labels.used, strict=True) if used and number is not None}
    if not found:
        raise DataError(f"{table.origin}: column {column!r} has no labels: give the classes by name, classes=[…]")
    if labels.classes:
        return labels.classes
    return tuple(str(number) for number in range(max(found) + 1))


def _chosen(names: list[str | None], known: list[str], given: Data, origin: str) -> Labels:
    wanted, notes = given.classes, []
    if isinstance(wanted, Mapping):
        _check_known(list(wanted), known, origin)
        names = [None if name is None else wanted.get(name, name) for name in names]
        known = list(dict.fromkeys(wanted.get(name, name) for name in known))
        notes.append("classes renamed: " + ", ".join(f"{old} is {new}" for old, new in wanted.items()))
    elif wanted is not None:
        wanted = [str(name) for name in wanted]
        _check_known(wanted, known, origin)
        left = {name: names.count(name) for name in known if name not in wanted}
        left = {name: count for name, count in left.items() if count}
        if left:
            shown = ", ".join(f"{name} {count}" for name, count in list(left.items())[:_SHOWN])
            more = f", … ({len(left)} classes)" if len(left) > _SHOWN else ""
            notes.append(f"left out, as other classes were asked for: {shown}{more}")
        known = wanted
    place = {name: i for i, name in enumerate(known)}
    numbers = [None if name is None else place.get(name) for name in names]
    used = tuple(name is None or name in place for name in names)
    return Labels(numbers, tuple(known), used, tuple(notes))


def _check_known(wanted: Sequence[str], known: Sequence[str], origin: str) -> None:
    for name in wanted:
        if name not in known:
            listed = ", ".join(known[:_SHOWN]) + (", …" if len(known) > _SHOWN else "")
            raise DataError(
                f"{origin}: has no class {name!r}; its classes are {listed or 'none'}.{did_you_mean(name, known)}"
            )


def _plain_values(column: Sequence[Any]) -> list[Any]:
    if hasattr(column, "tolist"):
        return list(column.tolist())
    return [value.item() if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else value for value in column]


def _number(value: Any, origin: str, column: str) -> int | None:
    if value is None or (isinstance(value, int) and value == -1):
        return None
    if isinstance(value, int) and value >= 0:
        return int(value)
    found = f"{value!r:.40}" if isinstance(value, int | float | str) else type(value).__name__
    raise DataError(
        f"{origin}: expected labels as names or whole numbers from 0, one for each example, got {found} in {column!r}"
    )
