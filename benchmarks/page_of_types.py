"""docs/types.md, from the figures of model_types.py."""

from __future__ import annotations

from typing import Any


def page(rows: list[dict[str, Any]]) -> str:
    """Return the page."""
    return str(len(rows)) + "\n"
