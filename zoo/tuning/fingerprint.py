"""A digest of the data that a run is given, so that other data are found before the first of them is drawn."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from zoo.data.spec import Data
from zoo.tuning.examples import parts_of

_WHOLE = 1 << 26  # bytes of a file that are all digested; of a larger one so many, in `_PIECES` pieces
_PIECES = 64


def fingerprint(data: Any) -> str:
    """Return a digest of a file, of tensors, arrays, numbers and texts, and of lists and mappings of them.

    Of folders, lists of files, data sets and other objects nothing is read here: their readers say what they have read.
    """
    hashed = hashlib.blake2b(digest_size=16)
    if isinstance(data, Data) and data == Data(data.source):  # with nothing said, the same as its source alone
        data = data.source
    source = data.source if isinstance(data, Data) else data
    if isinstance(source, str | os.PathLike):
        for part in _file(Path(os.fsdecode(source))):
            hashed.update(part)
    for part in _content(data):
        hashed.update(part)
    return hashed.hexdigest()


def _content(value: Any) -> Iterator[bytes]:
    if is_dataclass(value) and not isinstance(value, type):
        value = {one.name: getattr(value, one.name) for one in fields(value)}
    elif hasattr(value, "keys") and hasattr(value, "to_dict"):  # a graph of PyG; its attributes are what counts
        value = value.to_dict()
    if isinstance(value, str | os.PathLike):
        yield os.fsdecode(value).encode("utf-8", "surrogatepass")
    elif isinstance(value, Tensor):
        yield from parts_of(value)
    elif isinstance(value, np.ndarray | np.generic) and value.dtype != object:
        yield f"{value.dtype}{value.shape}".encode()
        yield np.ascontiguousarray(value).tobytes()
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield str(name).encode("utf-8", "surrogatepass")
            yield from _content(part)
    elif isinstance(value, list | tuple):
        yield f"[{len(value)}".encode()
        for part in value:
            yield from _content(part)
    elif value is None or isinstance(value, bytes | bool | int | float):
        yield repr(value).encode()


def _file(path: Path) -> Iterator[bytes]:
    """Yield a file's content, or pieces of it; nothing of what is none."""
    try:
        if not path.expanduser().is_file():
            return
        with path.expanduser().open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            yield str(size).encode()
            if size <= _WHOLE:
                yield file.read(_WHOLE)
                return
            length = _WHOLE // _PIECES
            for number in range(_PIECES):
                file.seek((size - length) * number // (_PIECES - 1))  # the last piece ends with the file
                yield file.read(length)
    except (OSError, ValueError):  # a text that is no name; what cannot be read is for its reader to say
        return
