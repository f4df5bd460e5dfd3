"""Folders of text files, by what is in the files: each is a document, its class the folder that it is in."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from zoo.bounded.regular import open_regular
from zoo.data import textfiles
from zoo.data.spec import Data
from zoo.data.table import Table
from zoo.data.walk import split_of
from zoo.errors import DataError

_NAMED = (".txt", ".md", ".rst", ".text")  # what is named as text is read in any case, for its error
_LOOKED_AT = 8192  # bytes that tell whether a file is text


def read_text_folder(root: Path, files: Sequence[Path], hidden: Sequence[tuple[str, str]], given: Data) -> Table | None:
    """Return the text files of a folder as a table: "text", "file" and, where all are in class folders, "label".

    A file is text by its content, whatever its name. Folders named like splits (train, val, test) are the splits. The
    first folder below those is the class, whatever is below it. Empty files and those that are no text are skipped and
    listed.

    Args:
        root: the folder.
        files: below it.
        hidden: what was left out, and why.
        given: whose `broken` says whether a file that is named as text and cannot be read is an error.

    Returns:
        None where no file is text.

    Raises:
        DataError: such a file cannot be read, and `broken` is "refuse".
    """
    texts: list[str] = []
    used: list[Path] = []
    skipped = list(hidden)
    for path in files:
        try:
            text = textfiles.read_text(path) if _is_text(path) else None
            why = "it is no text" if text is None else None if text.strip() else "it is empty"
        except DataError as error:
            if given.broken == "refuse":
                raise
            text, why = None, str(error).removeprefix(f"{path}: ")
        if text is not None and why is None:
            texts.append(text)
            used.append(path)
        else:
            skipped.append((str(path.relative_to(root)), str(why)))
    if not texts:
        return None
    splits: dict[str, list[int]] = {}
    labels: list[str | None] = []
    for number, (split, inner) in enumerate(_below_splits(root, used)):
        splits.setdefault(split, []).append(number)
        labels.append(inner)
    columns: dict[str, Sequence[str | None]] = {"text": texts, "file": [str(path.relative_to(root)) for path in used]}
    if all(labels):
        columns["label"] = labels
    return Table(columns, str(root), splits={} if "" in splits else splits, skipped=tuple(skipped))


def check_one_kind(root: Path, files: Sequence[Path], tables: Sequence[Path]) -> None:
    """Check that a folder of tables holds no documents beside them; a README or a licence is none.

    Raises:
        DataError: it holds both, and which of them is meant cannot be told.
    """
    others = [path for path in files if path not in tables and path.suffix.lower() in _NAMED]
    documents = [path for path in others if not re.match(r"(readme|licen[cs]e|notice|citation)", path.name.lower())]
    if documents:
        raise DataError(
            f"{root}: holds tables, such as {tables[0].name}, and text files, such as {documents[0].name}: give a "
            "table by itself, or a folder of one kind"
        )


def _is_text(path: Path) -> bool:
    if path.suffix.lower() in _NAMED:
        return True
    with open_regular(path) as file:
        start = file.read(_LOOKED_AT)
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return True
    try:
        return "\0" not in start.decode("utf-8")
    except UnicodeDecodeError as error:  # a character may be cut where the reading stopped
        return error.start >= len(start) - 3 and len(start) == _LOOKED_AT


def _below_splits(root: Path, paths: Sequence[Path]) -> Iterator[tuple[str, str | None]]:
    """Yield the split of each path, "" for none, and the class folder below it, None for none."""
    parts = [path.relative_to(root).parts[:-1] for path in paths]
    divided = len({split_of(one[0]) for one in parts if one}) > 1 and all(one and split_of(one[0]) for one in parts)
    for one in parts:
        rest = one[1:] if divided else one
        yield (split_of(one[0]) or "" if divided else ""), rest[0] if rest else None
