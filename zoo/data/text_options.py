"""The sampling options of a head on texts, for every architecture's plugin that has one. Imports no torch."""

from __future__ import annotations

from zoo.plugin.options import Option

CLASSIFIED = (
    Option("text", None, "the text to classify", type="texts"),
    Option("texts", None, "several texts", type="texts"),
)
