"""What reaches the terminal: nothing that it would obey, whoever wrote it.

The command's own output is made printable in `output.py`. Libraries write too, warnings and progress with names from
files in them; so while the command runs, stdout and stderr let through no control characters but those of progress.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from zoo.errors import printable

# Colours, and what moves the cursor and erases: on a terminal alone.
_ON_TERMINAL = re.compile(r"(\r|\x1b\[[0-9;?]{0,16}[ABCDGJKmhl])")
_ELSEWHERE = re.compile(r"(\r)")


class Screen(io.TextIOBase):
    """A stream of text that writes printable text into another one.

    Args:
        stream: the other one.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._passed = _ON_TERMINAL if stream.isatty() else _ELSEWHERE

    def write(self, text: str) -> int:
        """Write a text."""
        if not isinstance(text, str):
            raise TypeError(f"expected str, got {type(text).__name__}")
        parts = self._passed.split(text)
        self._stream.write("".join(part if at % 2 else printable(part) for at, part in enumerate(parts)))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The other stream's."""
        return self._stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        """The other stream's."""
        return self._stream.errors

    def flush(self) -> None:
        """Flush the other stream."""
        self._stream.flush()

    def isatty(self) -> bool:
        """Return whether the other stream is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """Return the other stream's."""
        return self._stream.fileno()

    def writable(self) -> bool:
        """Return True."""
        return True


@contextmanager
def printable_streams() -> Iterator[None]:
    """Put a `Screen` before stdout and stderr in the block."""
    before = sys.stdout, sys.stderr
    ours = tuple(Screen(stream) if stream is not None else None for stream in before)
    sys.stdout, sys.stderr = ours
    try:
        yield
    finally:
        # What another has put there meanwhile stays.
        if sys.stdout is ours[0]:
            sys.stdout = before[0]
        if sys.stderr is ours[1]:
            sys.stderr = before[1]
