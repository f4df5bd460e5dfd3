"""Data: readers for what a user brings, and small data sets that need no download. Any plugin may use these helpers.

What a user has (`spec.py`: a folder, a file, a dataset, tensors, with names of columns) is read as a `Table` of rows
(`sources.py` → `table.py`), or as a `Stream` of them (`streams.py`); columns are found by name (`columns.py`), classes
bound by name (`classes.py`), examples held out by one rule (`splits.py`), and what was taken and left is a `Report`
(`report.py`). `examples.py` does these for rows of any kind.

`images.py` reads pictures. `corpus.py` reads what a language model learns from: documents (`documents.py`),
conversations (`conversations.py`), pairs, token ids (`token_rows.py`), which `windows.py` makes windows of; `text.py`
is the prose of it, `labelled_texts.py` reads texts with labels. `stream.py` makes batches of tensors, `letters.py`
draws letters, `labels.py` reads the classes that a user asks for, `pixels.py` converts images.

Imports: `zoo.plugin` (its request types) and below. Start with `spec.py`.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "classes_of":
        from zoo.data.labelled import classes_of

        return classes_of
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
