"""Texts with classes: rows of any table, or text files in folders of classes, bound to a model's classes by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zoo.data.classes import bind_classes, in_order
from zoo.data.examples import is_missing, read_examples, table_of
from zoo.data.report import record
from zoo.data.spec import Data, as_data
from zoo.data.table import Table
from zoo.errors import DataError


@dataclass(frozen=True)
class LabelledTexts:
    """The texts of one split with their classes.

    Attributes:
        texts: the texts.
        seconds: the second text of each, where the data are pairs of texts; else None.
        labels: the number of the class of each, in `classes`.
        classes: the names, in the model's order; sorted where there is no model yet.
    """

    texts: list[str]
    seconds: list[str] | None
    labels: list[int]
    classes: tuple[str, ...]


def labelled_texts(
    data: Any, *, split: str, names: Sequence[str] | None = None, model: str = "the model"
) -> LabelledTexts:
    """Return the texts of one split and their classes, and record what was taken and left.

    Args:
        data: a table with columns "text" and "label" (and "text_pair", where classes are of two texts), a list of
            (text, label), a folder of text files in folders of classes, perhaps within `train` and `test`; or a
            `zoo.Data` that says which columns they are and which classes count.
        split: "train", "validation" or "test".
        names: the model's classes, in order; None: those of the data are taken, sorted.
        model: what messages call the model.

    Raises:
        DataError: there are no texts with classes, or a class is none of the model's.
    """
    given = as_data(data)
    table = table_of(given)
    if "label" not in table.columns and "file" in table.columns and "label" not in given.columns:
        raise DataError(
            f"{table.origin}: expected texts with classes: one folder of text files for each class, found files beside "
            "them: put each into the folder of its class"
        )
    known = _known(table, given, names)

    def why_not(row: Mapping[str, Any]) -> str | None:
        if not all(isinstance(row[role], str) for role in ("text", "text_pair") if role in row):
            return "its text is no text"
        if row["label"] is None or is_missing(_name(row["label"], known)):
            return "it has no label"
        if isinstance(given.classes, Sequence) and _name(row["label"], known) not in given.classes:
            return f"its class is {_name(row['label'], known)}, which is none of those asked for"
        return None

    found = read_examples(
        given,
        ("text", "label"),
        ("text_pair",),
        split=split,
        table=table,
        check=why_not,
        stratify=lambda row: _name(row["label"], known),
    )
    labels, classes, said = bound([_name(value, known) for value in found.columns["label"]], given, names, model)
    counted = Counter(classes[label] for label in labels)
    record(
        found.report("texts", classes={name: counted[name] for name in classes if counted[name]}, notes=filter(None, [said]))
    )
    return LabelledTexts(
        found.column("text"),
        found.column("text_pair") if "text_pair" in found.columns else None,
        [labels[row] for row in found.chosen],
        tuple(classes),
    )


def bound(
    values: Sequence[str], given: Data, names: Sequence[str] | None, model: str
) -> tuple[list[int], Sequence[str], str]:
    """Return the number of each value's class, the names of all classes, and what to say about the names.

    Args:
        values: the class of each example, of all splits.
        given: whose `classes` rename, or say which count and in which order.
        names: the model's classes in order; None: the data's own.
        model: what messages call the model.

    Raises:
        DataError: a class is none of the model's.
    """
    if isinstance(given.classes, Mapping):
        values = [given.classes.get(value, value) for value in values]
    present = in_order(set(values))
    if names is None:
        chosen = list(given.classes) if isinstance(given.classes, Sequence) else present
        return [chosen.index(value) for value in values], chosen, ""
    numbers, said = bind_classes(present, names, model=model)
    number_of = dict(zip(present, numbers, strict=True))
    return [number_of[value] for value in values], names, said


def _known(table: Table, given: Data, names: Sequence[str] | None) -> Sequence[str] | None:
    """Return the names of the numbers in the column of labels: those the data declare, else the model's."""
    column = given.columns.get("label")
    declared = [own for name, own in table.classes.items() if column in (None, name)]
    return declared[0] if declared else names


def _name(value: Any, known: Sequence[str] | None) -> str:
    """Return the name of a class; "" for what is none, such as -1 where a dataset has no label."""
    if hasattr(value, "item") and not isinstance(value, str):
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int):
        if value < 0:
            return ""
        if known and value >= len(known):
            raise DataError(f"expected a label from 0 to {len(known) - 1}, one of {', '.join(known)}, got {value}")
        return known[value] if known else str(value)
    if is_missing(value):
        return ""
    if not isinstance(value, str):
        raise DataError(f"expected a label as a name or a number, got {str(value)[:60]!r}")
    return value.strip()
