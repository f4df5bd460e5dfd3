"""How much an entry's module may be, by its configuration and by the files that it will be filled from."""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from zoo.catalog.entry import RANDOM, Entry
from zoo.catalog.limits import check_limits

if TYPE_CHECKING:
    from zoo.torch_state.budget import Budget

# Without files: more than any published model has.
_TENSORS, _ELEMENTS, _BYTES = 200_000, 1 << 43, 4 << 30
# With files, what a module has beside what is in them: a new head, layers that share weights, classes that are tried.
_MORE_TENSORS, _MORE_ELEMENTS, _MORE_BYTES = 5_000, 1 << 28, 1 << 30
# Elements for each byte, and tensors for each one of the files: weights of 1 bit, joined ones.
_PER_BYTE, _PER_TENSOR = 16, 8
_NAME = 40  # bytes of a tensor in the header of a safetensors file, at least
_OLD = 400  # bytes of a tensor in a pickle that is no archive
_PICKLED = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl"})


class _Files(NamedTuple):
    bytes: int
    tensors: int


def building(entry: Entry) -> Budget:
    """Return a context within which a module is constructed, once the entry's configuration has been checked.

    Raises:
        CheckpointError: the configuration has a number that no such model has; or, within the context, what is made is
            out of all proportion to the files, or to this machine's memory.
    """
    from zoo.torch_state.budget import Budget

    check_limits(entry)
    if entry.folder is None or entry.weights == RANDOM:
        elements = min(_ELEMENTS, _memory() // 4) if entry.weights == RANDOM else _ELEMENTS
        return Budget(entry.name, tensors=_TENSORS, elements=elements, written=_BYTES)
    files = _files(Path(entry.folder))
    return Budget(
        entry.name,
        tensors=_MORE_TENSORS + _PER_TENSOR * files.tensors,
        elements=_MORE_ELEMENTS + _PER_BYTE * files.bytes,
        written=_MORE_BYTES + files.bytes,
    )


def _files(folder: Path) -> _Files:
    """Return how much the files in a folder, and in a pipeline's parts, hold at most."""
    total = tensors = 0
    for path in _each(folder):
        total += path.stat().st_size
        tensors += _tensors(path)
    return _Files(total, tensors)


def _tensors(path: Path) -> int:
    """Return how many tensors a file of weights holds at most; 0 for other files."""
    size = path.stat().st_size
    if path.suffix == ".safetensors":
        with path.open("rb") as file:
            return min(int.from_bytes(file.read(8), "little"), size) // _NAME
    if path.suffix not in _PICKLED:
        return 0
    try:
        with zipfile.ZipFile(path) as file:
            return len(file.infolist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return size // _OLD


def _each(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        inner = sorted(path.iterdir()) if path.is_dir() else [path]
        yield from (one for one in inner if one.exists() and stat.S_ISREG(one.stat().st_mode))


def _memory() -> int:
    """Return the bytes of this machine's memory."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 4 * _ELEMENTS
