"""Zip and tar archives, and the rows of those that are shards of examples (webdataset).

They are unpacked to a temporary folder, without links, devices and pickles, and nothing of them is run.
"""

from __future__ import annotations

import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path, PurePosixPath
from typing import IO, Any

from zoo.bounded.json_text import json_value
from zoo.data.pictures import is_picture
from zoo.data.table import Table
from zoo.data.textfiles import rows_table
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
    for path in paths:
        found = shard_rows(unpacked(path))
        if found is None:
            raise DataError(f"{path}: expected files as in a webdataset (7.jpg, 7.cls): give the archive by itself")
        rows += found
    return rows_table(rows, origin)


def is_archive(path: Path) -> bool:
    """Return whether a file is a zip or a tar archive, by its content."""
    try:
        with path.open("rb") as file:
            if not file.read(512).strip(b"\0"):  # to tarfile zeros are an archive of nothing
                return False
        return zipfile.is_zipfile(path) or tarfile.is_tarfile(path)
    except (EOFError, OSError, zlib.error):  # of a file that begins as gzip and is cut off
        return False


def unpacked(path: Path) -> Path:
    """Return a temporary folder with an archive's regular files, the same for the same archive.

    Raises:
        DataError: it is damaged, or holds a name that leads outside.
    """
    return _unpacked(path, path.stat().st_mtime_ns)


def read_arrays(path: Path) -> Table | None:
    """Return the arrays of an `.npz` file as columns; None if a zip archive holds anything else.

    Raises:
        DataError: the arrays are objects, or damaged.
    """
    import numpy as np

    try:
        with zipfile.ZipFile(path) as zipped:
            if not all(name.endswith(".npy") for name in zipped.namelist()):
                return None
        with np.load(path, allow_pickle=False) as held:
            return Table({name: held[name] for name in held.files}, str(path))
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} holds no plain NumPy arrays ({one_line(error, 120)}): use numpy.savez") from error


@cache
def _unpacked(path: Path, changed: int) -> Path:
    folder = Path(_kept_until_exit().name) / f"{len(list(Path(_kept_until_exit().name).iterdir()))}"
    folder.mkdir()
    root = folder.resolve()
    try:
        with _members(path) as members:
            for name, opened in members:
                target = (root / name).resolve()
                if not target.is_relative_to(root) or PurePosixPath(name).is_absolute() or "\\" in name:
                    raise DataError(f"{path}: holds {name!r}, which leads outside of it: make the archive anew")
                target.parent.mkdir(parents=True, exist_ok=True)
                with opened as source, target.open("wb") as file:
                    shutil.copyfileobj(source, file)
    except (OSError, EOFError, zipfile.BadZipFile, tarfile.TarError, RuntimeError, NotImplementedError) as error:
        raise DataError(f"{path}: cannot be unpacked ({one_line(error, 200)}): is it whole?") from error
    except Exception as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: cannot be unpacked ({one_line(error, 200)}): is it whole?") from error
    return folder


@contextmanager
def _members(path: Path) -> Iterator[Iterator[tuple[str, IO[bytes]]]]:
    """Give the name and the content of every regular file of an archive: no link, no device, no pickle."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as zipped:
            yield (
                (info.filename, zipped.open(info))
                for info in zipped.infolist()
                if not info.is_dir() and _wanted(info.filename)
            )
    else:
        with tarfile.open(path) as tar:
            yield ((_plain(info), tar.extractfile(info)) for info in tar if info.isreg() and _wanted(info.name))  # type: ignore[misc]


def _plain(info: tarfile.TarInfo) -> str:
    return info.name.removeprefix("./")


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
        except (ValueError, UnicodeDecodeError) as error:
            name = path.relative_to(folder)
            raise DataError(f"{name} in the archive cannot be read ({one_line(error, 120)}): mend it") from None
    return row
