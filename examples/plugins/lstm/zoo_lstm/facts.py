"""What a configuration says. Imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo import Option

if TYPE_CHECKING:
    from zoo import Entry

BEGINNING = "\n"  # what a text without a prompt starts from: the line end before a paragraph


def sample_kinds(entry: Entry) -> list[str]:
    """Return that samples are texts."""
    return ["text"]


def sample_options(entry: Entry) -> list[Option]:
    """Return the prompt and how it is continued."""
    return [
        Option("prompt", BEGINNING, "the text to continue"),
        Option("length", 200, "bytes", low=1, high=10_000),
        Option("temperature", 0.7, "0: the likeliest byte each time", low=0),
    ]


def recognises(config: dict[str, Any]) -> bool:
    """Return whether a configuration is a ByteLSTM's."""
    return config.get("_class_name") == "ByteLSTM"


def describe(entry: Entry) -> dict[str, str]:
    """Return facts for `zoo info` and the model card."""
    return {name: str(entry.config[name]) for name in ("layers", "hidden", "embedding") if name in entry.config}
