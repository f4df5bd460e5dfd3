"""Zip and tar archives, and the rows of those that are shards of examples (webdataset).

They are unpacked to a temporary folder, without links, devices and pickles, within the limits of `zoo.data.limits`, and
nothing of them is run.
"""

from __future__ import annotations

import lzma
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO, cast

from zoo.bounded.json_text import json_value
from zoo.bounded.regular import open_regular
from zoo.data.arrays import check_members, read_npz
from zoo.data.limits import ENTRIES, unpacked_limit
from zoo.data.pictures import is_picture
from zoo.data.table import Table
from zoo.data.textfiles import rows_table
from zoo.data.unpacking import Bounded, uncompressed
from zoo.errors import DataError, one_line

_LABELS = ("cls", "cls2", "label", "class")
_TEXTS = ("txt", "text", "caption", "transcript")


def shard_rows(folder: Path) -> list[dict[str, Any]] | None:
    """Return the rows of an unpacked webdataset, in the order of their names, or None if it is none.

    Files of one name and several endings ("7.jpg", "7.cls", "7.json") are one row each: `image`, `label`, `text`, the
    fields of the JSON, and others by their endings.

    Raises:
        DataError: a file of a row cannot be read.
    """
    groups: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith(".") and "__MACOSX" not in path.parts:
            stem, _, ending = path.name.partition(".")
            groups.setdefault(str(path.parent / stem), {})[ending.lower()] = path
    several = [group for group in groups.values() if len(group) > 1]
    marked = any(ending in (*_LABELS, *_TEXTS, "json") for group in several for ending in group)
    if not marked or len(several) * 2 < len(groups):
        return None
    return [_row(group, folder) for group in groups.values()]


def read_shards(paths: Sequence[Path], origin: str) -> Table:
    """Return the rows of several archives of one data set, one after the other.

    Raises:
        DataError: one of them is no shard of examples.
    """
    rows: list[dict[str, Any]] = []
    limit, size = unpacked_limit(sum(path.stat().st_size for path in paths)), 0
    for path in paths:
        folder = unpacked(path)
        size += sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        said = limit.exceeded(size)
        if said:
            raise DataError(f"{origin}: its archives hold {said}")
        found = shard_rows(folder)
        if found is None:
            raise DataError(f"{path}: expected files as in a webdataset (7.jpg, 7.cls): give the archive by itself")
        rows += found
    return rows_table(rows, origin)


def is_archive(path: Path) -> bool:
    """Return whether a file is a zip or a tar archive, by its content."""
    try:
        with open_regular(path) as file:
            if not file.read(512).strip(b"\0"):  # to tarfile zeros are an archive of nothing
                return False
            if zipfile.is_zipfile(file):
                return True
            file.seek(0)
            with _tar(file, path):
                return True
    except (EOFError, OSError, zlib.error, lzma.LZMAError, tarfile.TarError):  # of a gzip file that is cut off
        return False


def unpacked(path: Path) -> Path:
    """Return a temporary folder with an archive's regular files, the same for the same archive.

    Raises:
        DataError: it is damaged, holds a name that leads outside, or more than `zoo.data.limits` allows.
    """
    return _unpacked(path, path.stat().st_mtime_ns)


def read_arrays(path: Path) -> Table | None:
    """Return the arrays of an `.npz` file as columns; None if a zip archive holds anything else.

    Raises:
        DataError: the arrays are objects, numbers alone, damaged or too large.
    """
    arrays: dict[str, Any] | None = read_npz(path)
    single = next((name for name, array in (arrays or {}).items() if not array.ndim), None)
    if single is not None:
        raise DataError(f"{path}: {single!r} is one number, expected arrays with a row for each example")
    return None if arrays is None else Table(cast(Mapping[str, Sequence[Any]], arrays), str(path))


@cache
def _unpacked(path: Path, changed: int) -> Path:
    folder = Path(tempfile.mkdtemp(dir=_kept_until_exit().name))
    root = folder.resolve()
    limit, total = unpacked_limit(path.stat().st_size), 0
    try:
        with _members(path) as members:
            for number, (name, size, opened) in enumerate(members, 1):
                total += size
                said = ENTRIES.exceeded(number) or limit.exceeded(total)
                if said:
                    raise DataError(f"{path}: holds {said}")
                target = (root / name).resolve()
                if not target.is_relative_to(root) or PurePosixPath(name).is_absolute() or "\\" in name:
                    raise DataError(f"{path}: holds {name!r}, which leads outside of it: make the archive anew")
                target.parent.mkdir(parents=True, exist_ok=True)
                with opened() as source, target.open("wb") as file:
                    shutil.copyfileobj(source, file)
    except Exception as error:  # of zipfile, tarfile, the operating system
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: cannot be unpacked ({one_line(error, 200)}): is it whole?") from error
    return folder


@contextmanager
def _members(path: Path) -> Iterator[Iterator[tuple[str, int, Callable[[], IO[bytes]]]]]:
    """Give the name, the size and how to open it of every regular file of an archive: no link, no device, no pickle."""
    with open_regular(path) as file:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as zipped:
                members = [info for info in zipped.infolist() if not info.is_dir()]
                check_members(members, path)
                yield (
                    (info.filename, info.file_size, partial(zipped.open, info))
                    for info in members
                    if _wanted(info.filename)
                )
        else:
            file.seek(0)
            with _tar(file, path) as tar:
                yield (
                    (info.name.removeprefix("./"), info.size, partial(tar.extractfile, info))  # type: ignore[misc]
                    for info in tar
                    if info.isreg() and _wanted(info.name)
                )


def _tar(file: BinaryIO, path: Path) -> tarfile.TarFile:
    """Open a tar archive, compressed or not; its headers and files are read within the limits."""
    limit = unpacked_limit(path.stat().st_size)
    stream = uncompressed(file, limit, str(path)) or Bounded(file, limit, str(path))
    return tarfile.open(fileobj=stream, mode="r:")


def _wanted(name: str) -> bool:
    return not name.lower().endswith((".pkl", ".pickle", ".pyc"))


@cache
def _kept_until_exit() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="zoo-archives-", ignore_cleanup_errors=True)


def _row(group: dict[str, Path], folder: Path) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for ending, path in group.items():
        try:
            if ending in _LABELS:
                text = path.read_text(encoding="utf-8").strip()
                row["label"] = int(text) if text.isdecimal() else text
            elif ending in _TEXTS:
                row["text"] = path.read_text(encoding="utf-8")
            elif ending == "json":
                value = json_value(path.read_text(encoding="utf-8"))
                row |= value if isinstance(value, dict) else {"json": value}
            else:
                row["image" if "image" not in row and is_picture(path) else ending] = path
        except (ValueError, RecursionError) as error:
            name = path.relative_to(folder)
            raise DataError(f"{name} in the archive cannot be read ({one_line(error, 120)}): mend it") from None
    return row
