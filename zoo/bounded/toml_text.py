"""TOML that anybody may have written, within the bounds of `text.py`."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from zoo.bounded.text import DEPTH, DIGITS, check_values, read_text
from zoo.errors import ZooError, one_line

SIZE = 1 << 20
# Texts in quotes and comments, in which brackets, dots and digits mean nothing.
_QUOTED = re.compile(r'"""[\s\S]*?"""|\'\'\'[\s\S]*?\'\'\'|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'|#[^\n]*')
_PARTS = re.compile(r"[^\s,=\[\]{}]+(?:[ \t]+[^\s,=\[\]{}]+)*")
_BRACKETS = re.compile(r"[\[\]{}]")


def read_toml(path: Path, *, error: type[ZooError]) -> dict[str, Any]:
    """Return what a TOML file holds.

    Args:
        path: the file.
        error: the class of the errors.

    Raises:
        FileNotFoundError: there is no such file.
        ZooError: of the class `error`: it cannot be read, is no TOML, or is beyond the bounds.
    """
    text = read_text(path, limit=SIZE, error=error)
    try:
        _check(text)
        content = tomllib.loads(text)
        check_values(content)
    except (ValueError, RecursionError) as fault:  # TOMLDecodeError is a ValueError
        raise error(f"{path}: {one_line(fault, 200) or 'too deep'}") from fault
    return content


def _check(text: str) -> None:
    """Check brackets, dotted keys and digits before they are parsed: the parser goes down once for each."""
    plain = _QUOTED.sub("q", text)
    depth = 0
    for bracket in _BRACKETS.findall(plain):
        depth += 1 if bracket in "[{" else -1
        if depth > DEPTH:
            raise ValueError(f"arrays or tables more than {DEPTH} deep")
    for part in _PARTS.findall(plain):
        if part.count(".") > DEPTH:
            raise ValueError(f"a key of more than {DEPTH} parts")
        if len(part) > 20 * DIGITS:
            raise ValueError(f"a key or a number of {len(part)} characters")
