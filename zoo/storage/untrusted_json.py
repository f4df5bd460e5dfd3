"""JSON files that anybody may have written, read within a limit of bytes. Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from zoo.errors import AdapterError

JSON_LIMIT = 1 << 20


def read_json(path: Path, limit: int = JSON_LIMIT, *, strict: bool = False) -> dict[str, Any]:
    """The object in a JSON file of at most `limit` bytes; strict: without NaN and infinities. `AdapterError`."""
    try:
        size = path.stat().st_size
        if size > limit:
            raise AdapterError(f"{path}: longer than {limit} bytes, which no adapter's configuration is")
        with path.open("rb") as file:
            text = file.read(size)  # it allocates what it is asked for
    except FileNotFoundError as error:
        raise AdapterError(f"{path.parent}: no {path.name}, expected an adapter's folder") from error
    except (OSError, ValueError) as error:
        raise AdapterError(f"{path}: cannot be read ({one_line(error)})") from error
    return parse_json(text, str(path), strict=strict)


def parse_json(text: str | bytes, what: str, *, strict: bool = False) -> dict[str, Any]:
    """A JSON object. Raises `AdapterError` that begins with `what`."""
    try:
        content = json.loads(text, parse_constant=_no_number if strict else None)
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{what}: damaged, expected JSON ({one_line(error)})") from error
    if not isinstance(content, dict):
        raise AdapterError(f"{what}: expected a JSON object, got {type(content).__name__}")
    return content


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number in JSON")


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
