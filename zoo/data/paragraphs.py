"""Paragraphs: what stands between blank lines, which of them are equal, and where a text may be cut."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator

LONGEST = 4000  # characters; a longer paragraph is cut, so that a file without blank lines still has two splits
_BLANK_LINES = re.compile(r"\n[ \t]*\n(?:[ \t]*\n)*")
_SENTENCE = re.compile(r"[.!?…][\"'”’)\]]*\s+|\n|[。！？]")


def paragraphs(text: str) -> Iterator[str]:
    """Yield blocks between blank lines, without trailing space.

    One over LONGEST characters is cut at a line or a space.
    """
    for block in _BLANK_LINES.split(text):
        rest = block.rstrip().strip("\n")
        while len(rest) > LONGEST:
            cut = max(rest.rfind("\n", 1, LONGEST), rest.rfind(" ", 1, LONGEST) if "\n" not in rest[1:LONGEST] else -1)
            cut = cut if cut > 0 else LONGEST
            yield rest[:cut].rstrip()
            rest = rest[cut:].strip("\n")
        if rest.strip():
            yield rest


def unique(texts: Iterable[str]) -> Iterator[str]:
    """Yield each text once; two that differ in white space or case alone are the same."""
    seen: set[bytes] = set()
    for text in texts:
        key = same(text)
        if key not in seen:
            seen.add(key)
            yield text


def same(text: str) -> bytes:
    """Return 8 bytes that texts have in common which differ in white space or case alone."""
    return hashlib.sha256(one_line(text).lower().encode("utf-8", "replace")).digest()[:8]


def one_line(text: str) -> str:
    """Return the words of a text with a space between each two."""
    return " ".join(text.split())


def cut_near(text: str, place: int) -> int:
    """Return where to cut a text near a place: behind a sentence or a line, else a word, else right there.

    Args:
        text: of two characters or more.
        place: how many characters the first part should have.
    """
    place = min(max(place, 1), len(text) - 1)
    reach = max(1, min(place, len(text) - place) // 2)
    ends = [match.end() for match in _SENTENCE.finditer(text, max(0, place - reach), place + reach)]
    if not ends:
        ends = [match.end() for match in re.finditer(r"\s+", text[: place + reach]) if match.end() > place - reach]
    ends = [end for end in ends if text[:end].strip() and text[end:].strip()]
    return min(ends, key=lambda end: abs(end - place), default=place)
