"""One file as a table: of text, Parquet, Arrow, an array, a picture."""

from __future__ import annotations

import lzma
import zlib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from zoo.bounded.regular import open_regular
from zoo.data import textfiles
from zoo.data.arrays import read_npy
from zoo.data.huggingface import from_builder
from zoo.data.objects import from_tensor
from zoo.data.pictures import is_picture, read_pictures
from zoo.data.spec import Data
from zoo.data.table import Table
from zoo.data.unpacking import check_unpacked
from zoo.errors import DataError


def read_file(path: Path, kind: str = "any", given: Data | None = None) -> Table:
    """Return a file as a table: by its content, and by its ending where the content cannot tell.

    Raises:
        DataError: it is of no kind that is read.
    """
    with open_regular(path) as file:
        start = file.read(16)
    if not start:
        raise DataError(f"{path} is empty: give a file that holds something")
    if start.startswith(b"PK\x03\x04"):
        raise DataError(f"{path}: is a zip archive that is damaged or cut off: get it anew")
    endings = [ending.lower() for ending in path.suffixes]
    while endings and endings[-1] == ".gz":
        endings.pop()
    with suppress(EOFError, OSError, zlib.error, lzma.LZMAError):  # whoever reads it says what is wrong
        check_unpacked(path)
    ending = endings[-1] if endings else ""
    if start.startswith(b"PAR1"):
        return _built("parquet", path)
    if start.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return _built("arrow", path)
    if start.startswith(b"\x93NUMPY"):
        return _array(path, kind)
    if kind != "text" and is_picture(path):
        return read_pictures([path], str(path), given or Data(path))
    if ending in textfiles.JSONS or (ending not in textfiles.DELIMITED and textfiles.is_json(path)):
        return textfiles.read_json(path)
    if ending in textfiles.DELIMITED:
        return textfiles.read_delimited(path)
    if kind == "image":
        raise DataError(f"{path}: expected a picture that Pillow reads, an archive or a table; it is none of them")
    return Table({"text": [textfiles.read_text(path)]}, str(path))


def _built(kind: str, path: Path) -> Table:
    return from_builder(kind, [path], str(path))


def _array(path: Path, kind: str) -> Table:
    held = read_npy(path)
    if not held.ndim:
        raise DataError(f"{path}: is one number, expected an array with a row for each example")
    return replace(from_tensor(held, kind), origin=str(path))
