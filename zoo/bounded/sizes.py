"""Sizes in words: "80GB", "512MiB"."""

from __future__ import annotations

import re

UNITS = {"b": 1, "kb": 10**3, "kib": 1 << 10, "mb": 10**6, "mib": 1 << 20, "gb": 10**9, "gib": 1 << 30, "g": 10**9}


def size_of(text: str, unit: str | None = None) -> int | None:
    """Return the bytes that a text such as "80GB" or "1.5 GiB" says; None for anything else, and for zero.

    Args:
        text: A number and a unit, in any case.
        unit: What a number alone counts; None: it is no size.

    >>> size_of("512MB"), size_of("2 GiB"), size_of("80", "gb")
    (512000000, 2147483648, 80000000000)
    """
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)([a-z]{1,3})?", text.strip().lower().replace(" ", ""))
    scale = None if found is None else UNITS.get(found[2] or unit or "")
    return None if found is None or scale is None else int(float(found[1]) * scale) or None
