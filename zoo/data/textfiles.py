"""Tables in text files: CSV and TSV, JSON and JSON lines. Every value of a CSV stays the text that it is.

A file of up to `IN_MEMORY` bytes becomes lists; a larger one goes through `datasets`, which maps it from a disk.
"""

from __future__ import annotations

import csv
import io
import lzma
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from json import JSONDecodeError
from pathlib import Path
from typing import IO, Any

from zoo.bounded.json_text import json_value
from zoo.bounded.regular import open_regular
from zoo.data.huggingface import from_builder, from_rows
from zoo.data.limits import LINE, unpacked_limit
from zoo.data.table import Table
from zoo.data.unpacking import uncompressed
from zoo.errors import DataError, one_line

DELIMITED = (".csv", ".tsv", ".tab", ".psv")
JSONS = (".json", ".jsonl", ".ndjson")
IN_MEMORY = 256 * 2**20
VALUES = 20_000_000  # of a JSON file
_DELIMITERS = (",", "\t", ";", "|")
_LOOKED_AT = 64 * 1024  # characters that the delimiter is told by
_AT_ONCE = 2**24  # characters
_SPACE = " \t\r\n\ufeff"


def read_delimited(path: Path) -> Table:
    """Return the rows of a CSV file under the names in its first line; the delimiter is told by the content.

    Raises:
        DataError: the file is not text, a row has another number of fields than the first line, a name is there twice.
    """
    if path.stat().st_size > IN_MEMORY:
        return _large_delimited(path)
    with _text(path) as file:
        rows = _delimited_rows(path, file)
        names = next(rows)
        columns: list[list[str]] = [[] for _ in names]
        for row in rows:
            for column, value in zip(columns, row, strict=True):
                column.append(value)
    return Table(dict(zip(names, columns, strict=True)), str(path))


def read_json(path: Path) -> Table:
    """Return the rows of a JSON file: an array of objects, an object of columns, or an object in every line.

    Raises:
        DataError: the file is no JSON, or JSON of another kind.
    """
    if path.stat().st_size > IN_MEMORY:
        _check_lines(path)
        return from_builder("json", [path], str(path))
    with _text(path) as file:
        text = file.read().strip(_SPACE)
    if not text:
        raise DataError(f"{path} is empty: expected JSON objects, one in every line")
    try:
        whole = json_value(text, values=VALUES)
    except ValueError as error:
        rows = _json_lines(text, path, error)
    else:
        return _of_json(whole, str(path))
    return rows_table(rows, str(path))


def is_json(path: Path) -> bool:
    """Return whether a text file's first line is a JSON object, or the file begins as an array of them."""
    try:
        with _text(path) as file:
            start = file.read(_LOOKED_AT).lstrip(_SPACE)
    except (DataError, OSError):
        return False
    if start.startswith("["):
        return start[1:].lstrip().startswith("{")
    try:
        return isinstance(json_value(start.split("\n", 1)[0]), dict)
    except JSONDecodeError:
        return False
    except ValueError:  # beyond the bounds of JSON: no prose
        return True


def read_text(path: Path) -> str:
    """Return the text of a file, with plain ends of lines.

    Raises:
        DataError: it is no text in UTF-8 (or UTF-16 that says so), or not readable.
    """
    with _text(path) as file:
        text = file.read()
    return text.replace("\r\n", "\n")


def rows_table(rows: Iterable[Mapping[str, Any]], origin: str, notes: Sequence[str] = ()) -> Table:
    """Return a table of rows that are mappings; what a row does not have is None, and said."""
    columns: dict[str, list[Any]] = {}
    missing: dict[str, int] = {}
    count = 0
    for row in rows:
        for name, value in row.items():
            if name not in columns:
                columns[name], missing[name] = [None] * count, count
            columns[name].append(value)
        for name, column in columns.items():
            if len(column) == count:
                column.append(None)
                missing[name] += 1
        count += 1
    said = [f"{number} of {count} rows have no {name!r}" for name, number in missing.items() if number]
    return Table(columns, origin, notes=(*notes, *said))


@contextmanager
def _text(path: Path) -> Iterator[_Checked]:
    """Open a file of text, in gzip or not, in UTF-8 or with the mark of UTF-16; errors are of one line."""
    try:
        with open_regular(path) as raw:
            inner = uncompressed(raw, unpacked_limit(path.stat().st_size), str(path))
            stream = raw if inner is None else io.BufferedReader(inner)
            mark = stream.peek(4)[:4]
            wide = mark.startswith((b"\xff\xfe", b"\xfe\xff"))
            with io.TextIOWrapper(stream, encoding="utf-16" if wide else "utf-8-sig", newline="") as file:
                yield _Checked(file, path)
    except UnicodeDecodeError as error:
        found = f"0x{error.object[error.start]:02x}" if error.start < len(error.object) else "its end"
        raise DataError(f"{path}: expected UTF-8 text, found bytes that are not ({found}); convert it first") from None
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{path}: cannot be read ({one_line(error, 200)}): look at the file") from error


class _Checked(io.TextIOBase):
    """A text that has no zero bytes, which no text has: an error instead."""

    def __init__(self, file: IO[str], path: Path) -> None:
        self._file, self._path, self._longest = file, path, LINE.value()

    def read(self, size: int | None = -1, /) -> str:
        if size is not None and size >= 0:
            return self._check(self._file.read(size))
        parts = []  # zero bytes are found before all is in memory
        while part := self._check(self._file.read(_AT_ONCE)):
            parts.append(part)
        return "".join(parts)

    def readline(self, size: int | None = -1, /) -> str:  # type: ignore[override]
        line = self._file.readline(self._longest + 1 if size is None or size < 0 else min(size, self._longest + 1))
        if len(line) > self._longest:
            raise DataError(f"{self._path}: has {LINE.exceeded(len(line))}")
        return self._check(line)

    def seekable(self) -> bool:
        return self._file.seekable()

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)

    def _check(self, text: str) -> str:
        if "\0" in text:
            raise DataError(f"{self._path}: expected a text file, found a binary one (it holds zero bytes)")
        return text


def _delimited_rows(path: Path, file: _Checked) -> Iterator[list[str]]:
    """Yield the names, then every row, all of one length."""
    start = file.read(_LOOKED_AT)
    if not start.strip(_SPACE):
        raise DataError(f"{path} is empty: expected names of columns in its first line")
    file.seek(0)
    limit = csv.field_size_limit(LINE.value())
    try:
        reader = csv.reader(file, delimiter=_delimiter(path, start), strict=True)
        names = _names(path, next(row for row in reader if row))
        yield names
        for row in reader:
            if len(row) == len(names):
                yield row
            elif row:
                raise DataError(
                    f"{path}: line {reader.line_num} has {len(row)} fields and the first line {len(names)} "
                    f"({', '.join(names)}): quote fields that hold the delimiter"
                )
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num} cannot be read ({error}): mend its quotes") from None
    finally:
        csv.field_size_limit(limit)


def _delimiter(path: Path, start: str) -> str:
    """Return the delimiter that makes rows of one length of the beginning of a file; a comma if none does."""
    if len(start) == _LOOKED_AT and "\n" in start:
        start = start[: start.rindex("\n") + 1]
    best, most = ("\t" if path.suffix.lower() in (".tsv", ".tab") else ","), 1
    for delimiter in _DELIMITERS:
        try:
            rows = [len(row) for row in csv.reader(io.StringIO(start, newline=""), delimiter=delimiter) if row]
        except csv.Error:
            continue
        if rows and len(set(rows)) == 1 and rows[0] > most:
            best, most = delimiter, rows[0]
    return best


def _names(path: Path, first: list[str]) -> list[str]:
    names = [name.strip() or f"column_{i}" for i, name in enumerate(first)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{path}: the first line names {', '.join(twice)} twice: give every column a name of its own")
    return names


def _large_delimited(path: Path) -> Table:
    with _text(path) as file:
        names = next(_delimited_rows(path, file))

    def rows() -> Iterator[dict[str, str]]:
        with _text(path) as file:
            found = _delimited_rows(path, file)
            next(found)
            for row in found:
                yield dict(zip(names, row, strict=True))

    return from_rows(rows, names, str(path))


def _check_lines(path: Path) -> None:
    """Check that no line is longer than what is read of one.

    Raises:
        DataError: one is.
    """
    longest = LINE.value()
    with open_regular(path) as file:
        while line := file.readline(longest + 1):
            said = LINE.exceeded(len(line))
            if said:
                raise DataError(f"{path}: has {said}")


def _json_lines(text: str, path: Path, whole: ValueError) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json_value(line)
        except ValueError as error:
            shown = whole if number == 1 else error  # one value over many lines, or a line that is none
            raise DataError(f"{path}: line {number} is not JSON ({one_line(shown, 120)}): mend it") from None
        if not isinstance(row, dict):
            raise DataError(f"{path}: line {number} is {type(row).__name__}, expected an object with named fields")
        rows.append(row)
    return rows


def _of_json(value: Any, origin: str) -> Table:
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        return rows_table(value, origin)
    if isinstance(value, list) and value and all(isinstance(row, str) for row in value):
        return Table({"text": value}, origin)
    if isinstance(value, dict):
        lists = {name: rows for name, rows in value.items() if isinstance(rows, list)}
        nested = len(lists) == 1 and all(isinstance(row, dict) for row in next(iter(lists.values())))
        if not nested and len(lists) == len(value) > 0 and len({len(rows) for rows in lists.values()}) == 1:
            return Table(value, origin)
        tables = [name for name, rows in lists.items() if rows and all(isinstance(row, dict) for row in rows)]
        if len(tables) == 1 and "messages" not in tables and "conversations" not in tables:
            return rows_table(lists[tables[0]], origin, [f"the rows are those of {tables[0]!r} in the file"])
        if value:
            return rows_table([value], origin)
    raise DataError(f"{origin}: expected JSON objects with named fields, found {_kind(value)}: give an array of them")


def _kind(value: Any) -> str:
    inner = f" of {type(value[0]).__name__}" if isinstance(value, list) and value else ""
    return f"{'an empty ' if value in ([], {}) else 'a '}{type(value).__name__}{inner}"
