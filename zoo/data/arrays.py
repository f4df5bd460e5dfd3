"""NumPy's files: what their headers say is compared with the bytes there are before anything is allocated."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from zoo.bounded.regular import open_regular
from zoo.data.limits import ENTRIES, unpacked_limit
from zoo.errors import DataError, one_line

if TYPE_CHECKING:
    import numpy as np

_PLAIN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # bzip2 turns a kilobyte into gigabytes at once


def read_npy(path: Path) -> np.ndarray[Any, Any]:
    """Return the array of an `.npy` file.

    Raises:
        DataError: it holds objects, is damaged, or its header says another size than it has.
    """
    try:
        with open_regular(path) as file:
            return _array(file, path.stat().st_size, path.name)
    except Exception as error:  # of numpy, which reads the header as Python's syntax
        raise DataError(f"{path} is not a plain NumPy file ({one_line(error, 120)}): write it anew") from error


def read_npz(path: Path) -> dict[str, np.ndarray[Any, Any]] | None:
    """Return the arrays of an `.npz` file by name; None if the zip archive holds anything else.

    Raises:
        DataError: as `read_npy`, or they are larger than `zoo.data.limits` allows.
    """
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as zipped:
            members = zipped.infolist()
            if not all(info.filename.endswith(".npy") for info in members):
                return None
            check_members(members, path)
            return {info.filename.removesuffix(".npy"): _member(zipped, info) for info in members}
    except DataError:
        raise
    except Exception as error:  # of zipfile, numpy, which reads headers as Python's syntax
        raise DataError(f"{path} holds no plain NumPy arrays ({one_line(error, 120)}): use numpy.savez") from error


def check_members(members: list[zipfile.ZipInfo], path: Path) -> None:
    """Check how many members a zip archive has, and how large they are.

    Raises:
        DataError: they are too many, too large, or compressed in a way that is not read.
    """
    said = ENTRIES.exceeded(len(members))
    if said:
        raise DataError(f"{path}: holds {said}")
    odd = next((info for info in members if info.compress_type not in _PLAIN), None)
    if odd is not None:
        raise DataError(f"{path}: {odd.filename!r} is compressed by another method than deflate: make the archive anew")
    said = unpacked_limit(path.stat().st_size).exceeded(sum(info.file_size for info in members))
    if said:
        raise DataError(f"{path}: would be {said}")


def _member(zipped: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray[Any, Any]:
    with zipped.open(info) as file:
        return _array(file, info.file_size, info.filename)


def _array(file: IO[bytes], size: int, name: str) -> np.ndarray[Any, Any]:
    """Return the array in a file of `size` bytes; ValueError says what is wrong with it."""
    from numpy.lib import format as npy

    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"{name} has NumPy's format {version}, expected (1, 0) or (2, 0)")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError(f"{name} holds objects, which are not unpickled")
    there = size - file.tell()
    if not all(isinstance(edge, int) and edge >= 0 for edge in shape) or not dtype.itemsize:
        raise ValueError(f"{name} has the shape {shape} of {dtype}, which no array has")
    if math.prod(shape) * dtype.itemsize > there or (not math.prod(shape) and shape[0] > 0):
        raise ValueError(f"{name} has the shape {shape} of {dtype}, which is not the size of its {there} bytes")
    file.seek(0)
    return npy.read_array(file, allow_pickle=False)
