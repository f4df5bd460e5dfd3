"""What can be chosen when a text is generated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo import Option

if TYPE_CHECKING:
    from zoo import Entry

NEW_TOKENS = 100


def sample_kinds(entry: Entry) -> list[str]:
    """Return that samples are texts."""
    return ["text"]


def sample_options(entry: Entry) -> list[Option]:
    """Return the prompt and how the text is generated from it."""
    return [
        Option("prompt", None, "the text to begin with", type="texts"),
        Option("prompts", None, "several texts to begin with", type="texts"),
        Option("max_new_tokens", None, f"tokens at most; None: {NEW_TOKENS}", "int", 1),
        Option("do_sample", False, "draw tokens; otherwise take the likeliest"),
        Option("temperature", 1.0, "below 1: likelier, less varied", above=0),
        Option("top_k", 50, "draw from this many likeliest tokens; 0: from all", low=0),
        Option("top_p", 1.0, "draw from the likeliest tokens that have this share", above=0, high=1),
        Option("num_beams", 1, "beams of a beam search", low=1, high=64),
    ]
