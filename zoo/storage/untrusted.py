"""Read untrusted safetensors files: check the size, then the header, then return views of the file.

Nothing is unpickled or executed, and nothing is allocated on the strength of a size that a file merely claims: a JSON
file is at most 1 MiB, a safetensors header at most 8 MiB and never more than the file, and tensors are views of the
memory-mapped file, which cost nothing until they are read. Only the Python objects parsed from JSON take more memory
than their text: up to about 20 times as much, for a file of nothing but brackets.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo.errors import AdapterError, one_line
from zoo.storage.untrusted_json import parse_json

HEADER_LIMIT = 8 << 20
DIMENSIONS = 8
TYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


class TensorFile(NamedTuple):
    """The tensors of a safetensors file, as views of the mapped file, and the metadata of its header."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def read_tensors(path: Path) -> TensorFile:
    """Return the tensors of a safetensors file, without reading them yet.

    Raises:
        AdapterError: the header does not describe exactly this file: every byte after it must belong to one tensor,
            whose dtype and shape have just that size.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(HEADER_LIMIT, size - 8):
                raise _damaged(path, f"its header would be {length} bytes of {size}")
            header = parse_json(file.read(length), f"{path.name}: damaged or no safetensors file")
    except (OSError, ValueError) as error:
        raise _damaged(path, one_line(error, 200)) from error
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _damaged(path, "its metadata are not texts")
    places = {name: _place(path, name, entry) for name, entry in header.items()}
    _check_cover(path, places, size - 8 - length)
    try:
        return TensorFile(_views(path, places, size, 8 + length), metadata)
    except (OSError, RuntimeError) as error:
        raise _damaged(path, one_line(error, 200)) from error


class _Place(NamedTuple):
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


def _place(path: Path, name: str, entry: Any) -> _Place:
    """Return the position of a tensor's data in the file, from its entry in the header."""
    if not isinstance(entry, Mapping) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _damaged(path, f"{_short(name)} has no dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in TYPES:
        raise _damaged(path, f"{_short(name)} is of type {_short(dtype)}, expected one of {', '.join(TYPES)}")
    if not _sizes(shape) or len(shape) > DIMENSIONS or not _sizes(offsets) or len(offsets) != 2:
        raise _damaged(path, f"{_short(name)} has an impossible shape or place")
    start, stop = offsets
    if math.prod(shape) * TYPES[dtype].itemsize != stop - start:
        raise _damaged(path, f"{_short(name)} has {stop - start} bytes, which its shape and type do not take")
    return _Place(TYPES[dtype], tuple(shape), start, stop)


def _sizes(values: Any) -> bool:
    """Return whether `values` is a list of integers from 0 up to what 64 bits hold."""
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 63 for value in values)


def _check_cover(path: Path, places: Mapping[str, _Place], size: int) -> None:
    end = 0
    for name, place in sorted(places.items(), key=lambda item: (item[1].start, item[1].stop)):
        if place.start != end:
            raise _damaged(path, f"{_short(name)} begins at byte {place.start}, expected {end}")
        end = place.stop
    if end != size:
        raise _damaged(path, f"its tensors take {end} bytes, and it holds {size}")


def _views(path: Path, places: Mapping[str, _Place], size: int, data: int) -> dict[str, Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mapped = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)  # private: never written back
    tensors = {}
    for name, (dtype, shape, start, stop) in places.items():
        content = mapped[data + start : data + stop]
        if (data + start) % dtype.itemsize:
            content = content.clone()  # no file of the library's own
        tensors[name] = content.view(dtype).view(shape) if stop > start else torch.empty(shape, dtype=dtype)
    return tensors


def _damaged(path: Path, why: str) -> AdapterError:
    return AdapterError(f"{path.name}: damaged or no safetensors file ({why}); get it again")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
