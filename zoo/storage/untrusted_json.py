"""The JSON files of adapters, which anybody may have written: short objects. Imports no torch."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from zoo.bounded.json_text import parse_object, read_object
from zoo.errors import AdapterError

JSON_LIMIT = 1 << 20

parse_json = partial(parse_object, error=AdapterError)


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
        return read_object(path, limit=limit, strict=strict, error=AdapterError)
    except FileNotFoundError as error:
        raise AdapterError(f"{path.parent}: no {path.name}, expected an adapter's folder") from error
