"""Samples that are texts: a list of n strings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any

from zoo.errors import ZooError
from zoo.samples.kind import Content, Distances, SampleKind, Shown


def _check(data: Any, labels: Sequence[str] | None) -> tuple[list[str], None]:
    if isinstance(data, str) or not all(isinstance(item, str) for item in data):
        raise ZooError(f"expected texts as a list of strings, got {type(data).__name__}")
    return list(data), None


def _apart(first: Content, second: Content) -> Distances:
    pairs = zip(first.data, second.data, strict=True)
    return "share of words that differ", [_words_apart(one, other) for one, other in pairs]


def _words_apart(one: str, other: str) -> float:
    words, others = (re.findall(r"\s+|\S+", text) for text in (one, other))
    return 1.0 - SequenceMatcher(None, words, others, autojunk=False).ratio() if words or others else 0.0


TEXTS = SampleKind(
    "text",
    show=lambda samples: [Shown(text=one) for one in samples.data],
    check=_check,
    apart=_apart,
)
