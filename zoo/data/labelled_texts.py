"""Texts with labels, whatever a user has: rows of a table, a list, text files in folders of classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from zoo.data.classes import in_order
from zoo.data.examples import is_missing, read_examples
from zoo.data.report import record
from zoo.data.sources import read_table
from zoo.data.spec import Data, as_data
from zoo.data.table import Table
from zoo.data.task_labels import class_numbers, label_tensor
from zoo.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor


class LabelledTexts(NamedTuple):
    """Texts with what a head is to say of them.

    Attributes:
        texts: n texts; of the task "tokens" n lists of words.
        labels: as `zoo.data.task_labels.label_tensor` makes them; of "tokens" a list of classes for each text.
        seconds: the second text of each, where labels are of pairs of texts; else None.
    """

    texts: list[Any]
    labels: Tensor | list[list[int]]
    seconds: list[str] | None = None


def labelled_texts(data: Any, split: str, *, task: str, names: Sequence[str], model: str) -> LabelledTexts:
    """Return the texts of one split with their labels, and record what was taken and left.

    Args:
        data: a table with columns "text" and "label", of "tokens" with "tokens" (words) and "tags", and "text_pair"
            where labels are of two texts; a list of (text, label), (words, tags) or mappings; of "classify" a folder of
            text files in folders of classes, perhaps within `train` and `test`; or a `zoo.Data` that says which columns
            they are and which classes count.
        split: "train", "validation" or "test".
        task: one of `zoo.catalog.head.TASKS`.
        names: of the model's classes, in order.
        model: what errors call the model.

    Raises:
        DataError: the data are anything else, or a label is none of the model's.
    """
    given = as_data(data)
    table = _table(given, task)
    if task == "tokens":
        return _tagged(table, given, split, names, model)
    known = _known(table, given, "label")

    def why_not(row: Mapping[str, Any]) -> str | None:
        wrong = next((role for role in ("text", "text_pair") if not isinstance(row.get(role, ""), str)), None)
        if wrong:
            return f"its {wrong} is no text"
        label = _named(row["label"], known, given)
        if label is None or (task != "multilabel" and is_missing(label)):
            return "it has no label"
        if isinstance(given.classes, Sequence) and task == "classify" and label not in given.classes:
            return f"its class is {label}, none of those asked for"
        return None

    found = read_examples(
        given,
        ("text", "label"),
        ("text_pair",),
        split=split,
        table=table,
        may_be_empty=("label",),
        check=why_not,
        key=lambda row: b"\0".join(row[role].encode() for role in ("text", "text_pair") if role in row),
        stratify=(lambda row: str(_named(row["label"], known, given))) if task == "classify" else None,
    )
    values = [_named(value, known, given) for value in found.columns["label"]]
    labels = label_tensor(task, values, names, model=model)  # of all splits, so that every class is looked at
    classes, notes = _counted(labels.tolist(), values, names) if task == "classify" else ({}, [])
    record(found.report("texts", classes=classes, notes=notes))
    seconds = found.column("text_pair") if "text_pair" in found.columns else None
    return LabelledTexts(found.column("text"), labels[found.chosen], seconds)


def classes_in(data: Any) -> list[str]:
    """Return the names of all classes that texts with labels have, in order; those that `zoo.Data(classes=)` says.

    Raises:
        DataError: the data have none.
    """
    given = as_data(data)
    if isinstance(given.classes, Sequence):
        return list(given.classes)
    table = read_table(given, kind="text")
    role, needed = ("tags", ("words", "tags")) if _has_tags(table, given) else ("label", ("text", "label"))
    found = read_examples(given, needed, split="train", table=_table(given, "classify", table), may_be_empty=(role,))
    known = _known(table, given, role)
    names: set[str] = set()
    for value in found.columns[role]:
        label = _named(value, known, given)
        names |= {str(one) for one in label} if isinstance(label, list | tuple | set) else {str(label)}
    return in_order(names - {"", "None"})


def _table(given: Data, task: str, table: Table | None = None) -> Table:
    """Return the data as a table of texts and labels.

    Raises:
        DataError: they are text files that are in no folders of classes.
    """
    if given.source is None:
        raise DataError(f"expected texts with {'tags' if task == 'tokens' else 'labels'}, got none: give data")
    table = read_table(given, kind="text") if table is None else table
    if "file" in table.columns and not {"label", given.columns.get("label")} & {*table.columns}:
        raise DataError(
            f"{table.origin}: expected text files in folders, one for each class, found files beside them: put each "
            "into the folder of its class"
        )
    if list(table.columns) == ["text"]:
        raise DataError(
            f"{table.origin}: expected texts with labels, got texts alone: give (text, label) for each, or a table "
            "with both columns"
        )
    if task == "tokens" and "words" not in given.columns and "input_ids" in table.columns and "label" in table.columns:
        columns = {**table.columns, "words": table.columns["input_ids"], "tags": table.columns["label"]}  # a list
        columns = {name: column for name, column in columns.items() if name not in ("input_ids", "label")}
        return Table(columns, table.origin, table.classes, table.splits, table.skipped, table.notes)
    return table


def _tagged(table: Table, given: Data, split: str, names: Sequence[str], model: str) -> LabelledTexts:
    known = _known(table, given, "tags")

    def why_not(row: Mapping[str, Any]) -> str | None:
        words, tags = row["words"], _list(row["tags"])
        if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
            raise DataError(
                f"{table.origin}: expected (words, tags) of one length, a list of words each, got {words!r:.60}"
            )
        if len(words) != len(tags):
            return f"it has {len(words)} words and {len(tags)} tags"
        return None

    found = read_examples(
        given,
        ("words", "tags"),
        split=split,
        table=table,
        check=why_not,
        key=lambda row: "\0".join(row["words"]).encode(),  # equal ones are together, whatever their tags
    )
    tags = [[_named(tag, known, given) for tag in _list(tags)] for tags in found.columns["tags"]]
    flat = [tag for row in tags for tag in row]
    numbers = iter(class_numbers(flat, names, model=model))
    labels = [[next(numbers) for _ in row] for row in tags]
    counts = Counter(names[number] for row in labels for number in row)
    record(found.report("texts", classes={name: counts[name] for name in names if counts[name]}))
    return LabelledTexts([list(words) for words in found.column("words")], [labels[row] for row in found.chosen])


def _counted(numbers: Sequence[int], values: Sequence[Any], names: Sequence[str]) -> tuple[dict[str, int], list[str]]:
    """Return class → how many texts it has, and what to say of how the classes got their numbers."""
    counts = Counter(numbers)
    found = {name: counts[number] for number, name in enumerate(names) if counts[number]}
    said = {
        str(value): names[number] for value, number in zip(values, numbers, strict=True) if str(value) != names[number]
    }
    if not said:
        return found, []
    shown = ", ".join(f"{value} is {name}" for value, name in list(said.items())[:8])
    return found, [f"classes: {shown}{', …' if len(said) > 8 else ''}"]


def _known(table: Table, given: Data, role: str) -> Sequence[str] | None:
    """Return the names of the numbers in the column of labels, where the data declare them."""
    column = given.columns.get(role)
    if column is not None:
        return table.classes.get(column)
    return next((own for name, own in table.classes.items() if len(table.classes) == 1 or name == role), None)


def _named(value: Any, known: Sequence[str] | None, given: Data) -> Any:
    """Return a label with the names that the data and the user have for it; None for what is none, as -1 is."""
    value = _list(value) if getattr(value, "ndim", 0) else value
    if isinstance(value, list | tuple | set):
        return [_named(one, known, given) for one in value]
    if hasattr(value, "item") and not isinstance(value, str):
        value = value.item()
    if isinstance(value, int) and not isinstance(value, bool) and known:
        value = known[value] if 0 <= value < len(known) else None
    if isinstance(value, str):
        value = value.strip()
    if isinstance(given.classes, Mapping):
        value = given.classes.get(value, given.classes.get(str(value), value))
    return value


def _list(value: Any) -> list[Any]:
    return value.tolist() if hasattr(value, "tolist") else list(value)


def _has_tags(table: Table, given: Data) -> bool:
    return "tags" in given.columns or any(name.lower() in ("ner_tags", "pos_tags", "tags") for name in table.columns)
