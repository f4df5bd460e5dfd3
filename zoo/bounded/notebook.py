"""What a notebook shows of an object: a small table, in which every text is escaped."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from zoo.errors import printable

LONGEST = 500  # characters of a cell


def table(title: object, rows: Mapping[str, object]) -> str:
    """Return HTML with a title and a row for each label and text; rows without a text are left out."""
    cells = "".join(
        f'<tr><th style="text-align:left">{_text(label)}</th><td style="text-align:left">{_text(value)}</td></tr>'
        for label, value in rows.items()
        if value not in (None, "")
    )
    return f"<div><strong>{_text(title)}</strong><table>{cells}</table></div>"


def _text(value: object) -> str:
    text = printable(str(value)).encode("utf-8", errors="backslashreplace").decode()
    return escape(text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…")
