"""Token ids with labels of whole rows, or of tokens: used as they are, for a model with a head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from zoo.data.examples import read_examples
from zoo.data.report import record
from zoo.data.spec import Data
from zoo.data.table import Table
from zoo.data.task_labels import label_tensor
from zoo.data.token_rows import TOKENS, padded, token_rows
from zoo.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

_LABELS = ("labels", "label")


def has_tokens(table: Table) -> bool:
    """Return whether a table's rows are token ids (a list of words may have the same name)."""
    if TOKENS not in table.columns or not len(table):
        return False
    first = table.columns[TOKENS][0]
    return not (isinstance(first, list | tuple) and bool(first) and isinstance(first[0], str))


def labelled_tokens(
    table: Table,
    given: Data,
    split: str,
    *,
    task: str,
    names: Sequence[str],
    model: str,
    takes: Sequence[str],
    filler: int,
) -> dict[str, Tensor]:
    """Return "input_ids" int64 [n, t] of one split with what belongs to them, and "labels"; record what was taken.

    Args:
        table: rows of token ids, with a column "labels": a label for each row, of the task "tokens" for each token.
        given: which column has the labels, and what is held out.
        split: "train", "validation" or "test".
        task: one of `zoo.catalog.head.TASKS`.
        names: of the model's classes, in order.
        model: what errors call the model.
        takes: what the model uses beside token ids, and "input_ids".
        filler: token id of the padding.

    Raises:
        DataError: there are no labels, or a column would be ignored.
    """
    name = given.columns.get("label") or next((name for name in _LABELS if name in table.columns), None)
    if name is None or name not in table.columns:
        raise DataError(f"{table.origin}: expected labels beside the token ids, got {', '.join(table.columns)}")
    columns = {column: values for column, values in table.columns.items() if column not in (name, given.group)}
    of_tokens = {"labels": table.columns[name]} if task == "tokens" else {}
    used = [*takes, "labels"] if task == "tokens" else takes
    rows = token_rows({**columns, **of_tokens}, table.origin, takes=used)
    if task == "tokens" and any(row["labels"].ndim == 0 for row in rows):
        raise DataError(f"{table.origin}: expected a label for each token, got one for each row")
    numbers = {TOKENS: list(range(len(rows)))}
    groups = {column: values for column, values in table.columns.items() if column == given.group}
    found = read_examples(
        replace(given, columns={}),
        (TOKENS,),
        split=split,
        table=Table({**numbers, **groups}, table.origin, splits=table.splits, notes=table.notes),
        key=lambda row: rows[row[TOKENS]][TOKENS].numpy().tobytes(),
    )
    chosen = found.column(TOKENS)
    record(replace(found.report("rows of tokens"), columns={}))
    tensors = padded([rows[number] for number in chosen], filler)
    if task == "tokens":
        return tensors
    declared = table.classes.get(name)
    values = list(table.columns[name])
    if declared is not None:
        values = [declared[int(value)] for value in values]
    return {**tensors, "labels": label_tensor(task, values, names, model=model)[chosen]}
