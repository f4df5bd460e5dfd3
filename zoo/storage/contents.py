"""Sums over a file's whole content, by which rot in a file that was verified before is found at a memory's pace.

They are no digest against forgers, who would write the noted sums too: for those there is the sha256 that came first.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import BinaryIO

_CHUNK = 1 << 20  # bytes
_ROW = 512  # words of 8 bytes
_SEGMENT = 64 << 20  # bytes that one thread reads
_THREADS = 4


def content_sums(path: Path) -> str:
    """Return the sums of a file's content in hex.

    Each MiB is a table of words of which every row and every column is summed, so that changes go unseen only where
    they cancel in rows and columns both. It takes about a sixth of the time of a sha256, and less with more cores.

    Raises:
        OSError: the file cannot be read.
    """
    size = path.stat().st_size
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as threads:
        parts = list(threads.map(partial(_segment_sums, path), range(0, size, _SEGMENT)))
    return hashlib.sha256(b"%d" % size + b"".join(parts)).hexdigest()


def _segment_sums(path: Path, start: int) -> bytes:
    import numpy as np

    buffer = np.zeros(_CHUNK, np.uint8)
    table, sums = buffer.view(np.uint64).reshape(-1, _ROW), hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        for _ in range(_SEGMENT // _CHUNK):
            read = _fill(file, buffer.data)
            if not read:
                break
            buffer[read:] = 0
            sums.update(table.sum(0))
            sums.update(table.sum(1))
    return sums.digest()


def _fill(file: BinaryIO, view: memoryview) -> int:
    """Read until the buffer is full or the file ends; return how many bytes were read."""
    done = 0
    while done < len(view) and (read := file.readinto(view[done:])):  # type: ignore[attr-defined]
        done += read
    return done
