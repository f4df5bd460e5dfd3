"""TOML, written: tables of texts, numbers, lists and tables."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def written(content: Mapping[str, Any], name: str = "") -> str:
    """Return TOML that reads as `content`; what is None is left out.

    Raises:
        ValueError: a value has no form in TOML.
    """
    lines = [f"{_key(key)} = {_value(one)}" for key, one in content.items() if not _is_table(one) and one is not None]
    head = [f"[{name}]"] if name and (lines or not content) else []
    parts = ["\n".join([*head, *lines])] if lines or head else []
    for key, one in content.items():
        if _is_table(one):
            parts.append(written(one, f"{name}.{_key(key)}" if name else _key(key)))
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} is no number that a setting can have")
        text = repr(value)
        return text if "." in text or "e" in text else f"{text}.0"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_key(key)} = {_value(one)}' for key, one in value.items() if one is not None)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(one) for one in value)}]"
    raise ValueError(f"a {type(value).__name__} has no form in TOML")


def _text(value: str) -> str:
    """Return a basic string; JSON's escapes are TOML's, but for that of DEL, which JSON leaves as it is."""
    value.encode()  # half a character has no form
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(value: str) -> str:
    return value if _BARE.fullmatch(value) else _text(value)
