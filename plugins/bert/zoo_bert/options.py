"""What can be chosen when masks are filled, or texts classified."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo import Option
from zoo.data.text_options import CLASSIFIED
from zoo.integrations import transformers_heads

from .facts import classifies, configuration

if TYPE_CHECKING:
    from zoo import Entry

MODES = ("fill", "gibbs", "mask-predict")


def sample_kinds(entry: Entry) -> list[str]:
    """Return that samples are texts; of a model with a head, what that says."""
    return transformers_heads.sample_kinds(configuration(entry))


def sample_options(entry: Entry) -> list[Option]:
    """Return the text and how its masks are filled; of a model with a head, the text alone."""
    if classifies(configuration(entry)):
        return list(CLASSIFIED)
    return [
        Option("text", None, "a text with [MASK] wherever a token is wanted", type="texts"),
        Option("texts", None, "several texts", type="texts"),
        Option("mode", MODES[0], "each mask once, all again and again, or all at once and then better", choices=MODES),
        Option("length", None, "tokens of a free text, where no text is given", "int", 1),
        Option("steps", None, "rounds of gibbs and mask-predict", "int", 1, 1000),
        Option("temperature", 1.0, "0: the likeliest token", low=0),
        Option("top_k", 0, "draw from this many likeliest tokens; 0: from all", low=0),
    ]
