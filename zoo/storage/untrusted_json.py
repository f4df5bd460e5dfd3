"""Read untrusted JSON files within a limit of bytes. Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from zoo.errors import AdapterError, one_line

JSON_LIMIT = 1 << 20


def read_json(path: Path, limit: int = JSON_LIMIT, *, strict: bool = False) -> dict[str, Any]:
    """Return the object in a JSON file.

    Args:
        path: the file.
        limit: how many bytes it may have.
        strict: refuse NaN and infinities.

    Raises:
        AdapterError: there is no such file, it is too long, or it is no JSON object.
    """
    try:
        size = path.stat().st_size
        if size > limit:
            raise AdapterError(f"{path}: longer than {limit} bytes, which no adapter's configuration is")
        with path.open("rb") as file:
            text = file.read(size)  # read() allocates as many bytes as it is given
    except FileNotFoundError as error:
        raise AdapterError(f"{path.parent}: no {path.name}, expected an adapter's folder") from error
    except (OSError, ValueError) as error:
        raise AdapterError(f"{path}: cannot be read ({one_line(error, 200)})") from error
    return parse_json(text, str(path), strict=strict)


def parse_json(text: str | bytes, what: str, *, strict: bool = False) -> dict[str, Any]:
    """Return the JSON object in `text`.

    Raises:
        AdapterError: it is none; the message begins with `what`.
    """
    try:
        content = json.loads(text, parse_constant=_no_number if strict else None)
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{what}: damaged, expected JSON ({one_line(error, 200)})") from error
    if not isinstance(content, dict):
        raise AdapterError(f"{what}: expected a JSON object, got {type(content).__name__}")
    return content


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number in JSON")
