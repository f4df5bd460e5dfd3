"""Sums over a file's whole content, by which rot in a file that was verified before is found at a memory's pace.

They are no digest against forgers, who would write the noted sums too: for those there is the sha256 that came first.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

_CHUNK = 1 << 20  # bytes
_ROW = 512  # words of 8 bytes


def content_sums(path: Path) -> str:
    """Return the sums of a file's content in hex.

    Each MiB is a table of words of which every row and every column is summed, so that changes go unseen only where
    they cancel in rows and columns both. It takes about a sixth of the time of a sha256.

    Raises:
        OSError: the file cannot be read.
    """
    import numpy as np

    buffer = np.zeros(_CHUNK, np.uint8)
    table, view = buffer.view(np.uint64).reshape(-1, _ROW), buffer.data
    sums, size = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as file:
        while read := _fill(file, view):
            buffer[read:] = 0
            sums.update(table.sum(0))
            sums.update(table.sum(1))
            size += read
    sums.update(b"%d" % size)
    return sums.hexdigest()


def _fill(file: object, view: memoryview) -> int:
    """Read until the buffer is full or the file ends; return how many bytes were read."""
    done = 0
    while done < len(view) and (read := file.readinto(view[done:])):  # type: ignore[attr-defined]
        done += read
    return done
