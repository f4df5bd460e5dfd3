"""What can be chosen when a text is continued, or classified."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo import Option
from zoo.data.text_options import CLASSIFIED
from zoo.integrations import transformers_heads
from zoo.storage.config_json import read_json_object

from .facts import classifies, configuration, folder_of

if TYPE_CHECKING:
    from zoo import Entry

# Where neither the user nor the checkpoint's generation_config.json says anything.
DEFAULTS = {"do_sample": True, "temperature": 0.8, "top_k": 0, "top_p": 0.95}
NEW_TOKENS = 100


def sample_kinds(entry: Entry) -> list[str]:
    """Return that samples are texts; of a model with a head, what that says."""
    return transformers_heads.sample_kinds(configuration(entry))


def sample_options(entry: Entry) -> list[Option]:
    """Return the prompt and how it is continued; of a model with a head, the text alone."""
    if classifies(configuration(entry)):
        return list(CLASSIFIED)
    folder = folder_of(entry)
    own = usual(((read_json_object(folder / "generation_config.json", entry) if folder else None) or {}).get)
    return [
        Option("prompt", None, "the text to continue", type="texts"),
        Option("prompts", None, "several texts to continue", type="texts"),
        Option("messages", None, "what a user says, or a conversation to answer", type="messages"),
        Option("max_new_tokens", None, f"tokens at most; None: {NEW_TOKENS}", "int", 1),
        Option("do_sample", own["do_sample"], "draw tokens; otherwise take the likeliest"),
        Option(
            "temperature",
            own["temperature"],
            "below 1: likelier, less varied; do_sample=False takes the likeliest",
            above=0,
        ),
        Option("top_k", own["top_k"], "draw from this many likeliest tokens; 0: from all", low=0),
        Option("top_p", own["top_p"], "draw from the likeliest tokens that have this share", above=0, high=1),
        Option("num_beams", 1, "beams of a beam search", low=1, high=64),
        Option("repetition_penalty", 1.0, "above 1: what was said becomes less likely", above=0),
        Option("no_repeat_ngram_size", 0, "so many tokens in a row come only once; 0: off", low=0),
    ]


def usual(own: Any) -> dict[str, Any]:
    """Return the usual values of `DEFAULTS`: what `own`, a function of a name, has, else those there."""
    return {name: type(value)(own(name) or value) for name, value in DEFAULTS.items()}
