"""The bytes of a file of text, and what is parsed from it: at most so many, and at most so deep."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zoo.bounded.regular import open_regular
from zoo.errors import ZooError, one_line

SIZE = 16 << 20  # bytes of a configuration
DEPTH = 64  # of arrays and objects in one another; what libraries write has at most 20
VALUES = 2_000_000  # in one text: each takes about 60 bytes
DIGITS = 40  # of a whole number; tokenizers write 10^30 for a text without a limit


def read_text(path: Path, *, limit: int = SIZE, error: type[ZooError]) -> str:
    """Return the text of a regular file in UTF-8, without a byte order mark.

    Args:
        path: the file.
        limit: how many bytes it may have.
        error: the class of the errors.

    Raises:
        FileNotFoundError: there is no such file.
        ZooError: of the class `error`: it is no regular file, is longer, is no UTF-8, or cannot be read.
    """
    try:
        with open_regular(path) as file:
            content = file.read(min(limit, os.fstat(file.fileno()).st_size) + 1)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as fault:
        raise error(f"{path}: cannot be read ({one_line(fault, 200)})") from fault
    if len(content) > limit:
        raise error(f"{path}: longer than {limit} bytes, which no such file is")
    return decoded(content, str(path), error=error)


def decoded(content: bytes, what: str, *, error: type[ZooError]) -> str:
    """Return bytes of UTF-8 as text, without a byte order mark.

    Raises:
        ZooError: of the class `error`: they are none.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        raise error(f"{what}: damaged, expected text in UTF-8 ({one_line(fault, 200)}); get it again") from fault


def whole(text: str) -> int:
    """Return the number that digits stand for.

    Raises:
        ValueError: there are more than `DIGITS`.
    """
    if len(text) > DIGITS:
        raise ValueError(f"a whole number of {len(text)} digits, expected at most {DIGITS}")
    return int(text)


def check_values(content: Any, most: int = VALUES) -> None:
    """Check what has been parsed: its depth, that it has at most `most` values, and its numbers.

    Values that are shared count wherever they are.

    Raises:
        ValueError: it is beyond the bounds.
    """
    level, count = [content], 0
    for _ in range(DEPTH + 1):
        inner: list[Any] = []
        for value in level:
            parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
            count += len(parts)
            if count > most:
                raise ValueError(f"more than {most} values")
            inner += [part for part in parts if isinstance(part, dict | list)]
            for part in parts:
                if type(part) is int and part.bit_length() > 4 * DIGITS:
                    raise ValueError(f"a whole number of more than {DIGITS} digits")
        if not inner:
            return
        level = inner
    raise ValueError(f"arrays or objects more than {DEPTH} deep")


def numbers(content: Any, name: str = "") -> Iterator[tuple[str, int]]:
    """Yield (key, whole number) of everything in a parsed text; a list's numbers have the list's key."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from numbers(value, str(key))
    elif isinstance(content, list):
        for value in content:
            yield from numbers(value, name)
    elif type(content) is int:
        yield name, content
