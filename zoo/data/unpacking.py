"""Streams that are unpacked while they are read, within a limit."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from pathlib import Path
from typing import IO, Any

from zoo.bounded.regular import open_regular
from zoo.data.limits import Limit, unpacked_limit
from zoo.errors import DataError

_AT_ONCE = 64 * 2**20  # bytes that one read may ask for
_OPENERS: dict[bytes, Any] = {b"\x1f\x8b": gzip.GzipFile, b"BZh": bz2.BZ2File, b"\xfd7zXZ\x00": lzma.LZMAFile}


class Bounded(io.RawIOBase):
    """A stream of which no more is read than its limit.

    Raises:
        DataError: of each method, more is asked for.
    """

    def __init__(self, inner: IO[bytes], limit: Limit, name: str) -> None:
        self._inner, self._limit, self._name = inner, limit, name

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return whether the inner stream is."""
        return self._inner.seekable()

    def readinto(self, buffer: Any, /) -> int:
        """Read into a buffer, and return how many bytes were read."""
        data = self.read(min(len(buffer), _AT_ONCE))
        buffer[: len(data)] = data
        return len(data)

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next `size` bytes."""
        if size is None or size < 0 or size > _AT_ONCE:
            raise DataError(f"{self._name}: has a part of {size} bytes, more than {_AT_ONCE:,} at once: make it anew")
        data = self._inner.read(size)
        self._check(self._inner.tell())
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to a place, and return it."""
        if whence == io.SEEK_SET:
            self._check(offset)
        return self._inner.seek(offset, whence)

    def tell(self) -> int:
        """Return the place."""
        return self._inner.tell()

    def _check(self, place: int) -> None:
        said = self._limit.exceeded(place)
        if said:
            raise DataError(f"{self._name}: unpacks to {said}")


def uncompressed(raw: IO[bytes], limit: Limit, name: str) -> Bounded | None:
    """Return what a gzip, bzip2 or xz file holds, as a bounded stream; None where it is none, at its beginning then."""
    start = raw.read(6)
    raw.seek(0)
    opener = next((opener for mark, opener in _OPENERS.items() if start.startswith(mark)), None)
    if opener is None:
        return None
    inner: Any = opener(fileobj=raw) if opener is gzip.GzipFile else opener(raw)
    return Bounded(inner, limit, name)


def check_unpacked(path: Path) -> None:
    """Check how large a compressed file becomes, which takes a fraction of what parsing it does.

    Raises:
        DataError: larger than `zoo.data.limits` allows.
        OSError: it cannot be read.
    """
    with open_regular(path) as raw:
        stream = uncompressed(raw, unpacked_limit(path.stat().st_size), str(path))
        while stream is not None and stream.read(1 << 20):
            pass
