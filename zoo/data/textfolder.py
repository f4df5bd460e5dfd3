"""Folders of text files, by what is in the files: each is a document, its class the folder that it is in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from zoo.data.spec import split_name
from zoo.data.table import Table
from zoo.errors import DataError

# What is read as a table or as tensors; whoever wants one gives it by itself.
TABLES = (".csv", ".tsv", ".tab", ".psv", ".json", ".jsonl", ".ndjson", ".parquet", ".arrow", ".feather", ".gz")
_LOOKED_AT = 8192  # bytes that tell whether a file is text


def read_text_file(path: Path) -> str:
    """Return the text of a file, lines ending in "\\n".

    Raises:
        DataError: it cannot be read, or is no text in UTF-8 (or UTF-16 that says so).
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: expected a readable text file; {error.strerror or error}") from error
    wide = raw[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        text = raw.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: expected UTF-8 text, found bytes that are not ({error.reason} at {error.start}); convert it first"
        ) from None
    if "\0" in text:
        raise DataError(f"{path}: expected a text file, found a binary one (it holds zero bytes)")
    return text.replace("\r\n", "\n")


def text_folder(root: Path, *, refuse: bool = False) -> Table | None:
    """Return the text files below a folder as a table: "text", "file" and, where all are in class folders, "label".

    A file is text by its content, whatever its name. Folders named like splits (train, val, test) are the splits. The
    first folder below those is the class, whatever is below it. Hidden files and folders, tables, empty files and
    those that are no text are skipped and listed.

    Args:
        root: the folder.
        refuse: raise an error for a file that is named as text and is none, instead of skipping it.

    Returns:
        None where no file is text.

    Raises:
        DataError: a file cannot be read, and `refuse`.
    """
    texts: list[str] = []
    places: list[Path] = []
    skipped: list[tuple[str, str]] = []
    for path in _files(root):
        place = path.relative_to(root)
        why = _why_not(place)
        if why is None:
            try:
                text = read_text_file(path) if _looks_like_text(path) else None
            except DataError as error:
                if refuse:
                    raise
                text, why = None, str(error).split(": ", 1)[-1]
            if text is None:
                why = why or "it is no text"
            elif not text.strip():
                why = "it is empty"
            else:
                texts.append(text)
                places.append(place)
        if why is not None:
            skipped.append((str(place), why))
    if not texts:
        return None
    tops = {place.parts[0] for place in places if len(place.parts) > 1}
    divided = bool(tops) and all(_split(top) for top in tops) and "train" in map(_split, tops)
    divided = divided and all(len(place.parts) > 1 for place in places)
    splits: dict[str, list[int]] = {}
    if divided:
        for number, place in enumerate(places):
            splits.setdefault(str(_split(place.parts[0])), []).append(number)
    depth = 1 if divided else 0
    columns: dict[str, list[str]] = {"text": texts, "file": [str(place) for place in places]}
    if all(len(place.parts) > depth + 1 for place in places):
        columns["label"] = [place.parts[depth] for place in places]
    return Table(columns, str(root), splits=splits, skipped=tuple(skipped))


def is_table(path: Path) -> bool:
    """Return whether a file is one that is read as a table."""
    return any(path.name.lower().endswith(ending) for ending in TABLES)


def _files(root: Path) -> Iterator[Path]:
    return (path for path in sorted(root.rglob("*")) if path.is_file())


def _why_not(place: Path) -> str | None:
    if any(part.startswith((".", "__MACOSX")) for part in place.parts):
        return "it is hidden"
    if is_table(place):
        return "it is a table: give it by itself"
    return None


def _looks_like_text(path: Path) -> bool:
    """Return whether the beginning of a file is text; what is named as text is read in any case, for its error."""
    if path.suffix.lower() in (".txt", ".md"):
        return True
    with path.open("rb") as file:
        start = file.read(_LOOKED_AT)
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return True
    try:
        return "\0" not in start.decode("utf-8")
    except UnicodeDecodeError as error:  # a character may be cut at the end of what was read
        return error.start >= len(start) - 3 and len(start) == _LOOKED_AT


def _split(name: str) -> str | None:
    try:
        return split_name(name.lower())
    except DataError:
        return None
