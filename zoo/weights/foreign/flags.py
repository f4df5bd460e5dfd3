"""What transformers and diffusers note on a model that they quantized, hidden while zoo manages its weights.

With these notes a model refuses to be cast or to be trained without PEFT, and its `save_pretrained` calls dense weights
quantized.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from zoo.weights.walk import library_modules

NOTES = ("hf_quantizer", "is_quantized", "quantization_method", "is_loaded_in_4bit", "is_loaded_in_8bit")
CONFIG = "quantization_config"
CONVERSIONS = "_weight_conversions"  # how transformers read the checkpoint, undone when it saves
_HIDDEN = "_zoo_quantization_notes"


def hide(module: nn.Module) -> None:
    """Take the notes off a module and those in it."""
    for _, layer in library_modules(module):
        notes = {name: layer.__dict__.pop(name) for name in NOTES if name in layer.__dict__}
        config = _fields(layer)
        if config is not None and CONFIG in config:
            notes[CONFIG] = dict.pop(config, CONFIG)
        conversions = layer.__dict__.get(CONVERSIONS)
        if notes and conversions is not None:
            notes[CONVERSIONS] = conversions
            layer.__dict__[CONVERSIONS] = [one for one in conversions if not _of_quantizer(one)]
        if notes:
            layer.__dict__[_HIDDEN] = notes


def show(module: nn.Module) -> None:
    """Put the notes back."""
    for _, layer in library_modules(module):
        notes = layer.__dict__.pop(_HIDDEN, {})
        config = _fields(layer)
        if CONFIG in notes and config is not None:
            dict.__setitem__(config, CONFIG, notes.pop(CONFIG))
        layer.__dict__.update(notes)


def _of_quantizer(conversion: Any) -> bool:
    """Return whether one of transformers' conversions of a checkpoint puts quantized weights together."""
    steps = getattr(conversion, "operations", None) or ()
    return any(type(step).__module__.startswith("transformers.integrations.") for step in steps)


def _fields(layer: nn.Module) -> dict[str, Any] | None:
    """Return the dict of a model's configuration: of transformers' its attributes, of diffusers' itself."""
    own = layer.__dict__.get("_internal_dict")
    if isinstance(own, dict):
        return own
    config = layer.__dict__.get("config")
    fields = getattr(config, "__dict__", None)
    return fields if isinstance(fields, dict) and type(config).__module__.startswith("transformers.") else None
