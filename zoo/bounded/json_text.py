"""JSON that anybody may have written: at most so long, so deep, of so many values, of numbers of so many digits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from zoo.bounded.text import SIZE, VALUES, check_values, decoded, read_text, whole
from zoo.errors import CheckpointError, ZooError, one_line


def parse_json(
    text: str | bytes,
    what: str,
    *,
    values: int = VALUES,
    strict: bool = False,
    error: type[ZooError] = CheckpointError,
) -> Any:
    """Return what a JSON text stands for. Of a key that an object has twice, the last one counts.

    Args:
        text: in UTF-8.
        what: how the error begins.
        values: how many values it may have.
        strict: refuse NaN and infinities.
        error: the class of the errors.

    Raises:
        ZooError: of the class `error`: it is no JSON, or beyond the bounds.
    """
    text = decoded(text, what, error=error) if isinstance(text, bytes) else text
    try:
        return json_value(text, values=values, strict=strict)
    except ValueError as fault:
        raise error(f"{what}: damaged, expected JSON ({one_line(fault, 200)})") from fault


def json_value(text: str, *, values: int = VALUES, strict: bool = False) -> Any:
    """Return what a JSON text stands for, as `parse_json` does.

    Raises:
        ValueError: it is no JSON, or beyond the bounds.
    """
    openings = text.count("[") + text.count("{")
    if openings + text.count(",") > values:  # before they take memory; brackets and commas in texts count too
        raise ValueError(f"more than {values} values")
    try:
        content = json.loads(text, parse_int=whole, parse_constant=_no_number if strict else None)
    except RecursionError as fault:
        raise ValueError("arrays or objects too deep") from fault
    if openings > 1:
        check_values(content, values)
    if "\\ud" in text or "\\uD" in text:  # half a character, which no file can hold
        json.dumps(content, ensure_ascii=False).encode()
    return content


def parse_object(
    text: str | bytes,
    what: str,
    *,
    values: int = VALUES,
    strict: bool = False,
    error: type[ZooError] = CheckpointError,
) -> dict[str, Any]:
    """Return the JSON object in `text`; arguments and errors as those of `parse_json`."""
    return _object(parse_json(text, what, values=values, strict=strict, error=error), what, error)


def read_json(
    path: Path,
    *,
    limit: int = SIZE,
    values: int = VALUES,
    strict: bool = False,
    error: type[ZooError] = CheckpointError,
) -> Any:
    """Return what a JSON file stands for.

    Args:
        path: the file.
        limit: how many bytes it may have.
        values: how many values it may have.
        strict: refuse NaN and infinities.
        error: the class of the errors.

    Raises:
        FileNotFoundError: there is no such file.
        ZooError: of the class `error`: it cannot be read, is no JSON, or is beyond the bounds.
    """
    text = read_text(path, limit=limit, error=error)
    return parse_json(text, str(path), values=values, strict=strict, error=error)


def read_object(
    path: Path,
    *,
    limit: int = SIZE,
    values: int = VALUES,
    strict: bool = False,
    error: type[ZooError] = CheckpointError,
) -> dict[str, Any]:
    """Return the JSON object in a file; arguments and errors as those of `read_json`."""
    return _object(read_json(path, limit=limit, values=values, strict=strict, error=error), str(path), error)


def _object(content: Any, what: str, error: type[ZooError]) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise error(f"{what}: expected a JSON object, got {type(content).__name__}")
    return content


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number in JSON")
