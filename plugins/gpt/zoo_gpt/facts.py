"""The configuration of a causal language model. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.integrations.auto_classes import is_for, sees_later_tokens
from zoo.storage.config_json import CONFIG, read_json_object

if TYPE_CHECKING:
    from zoo import Entry

EMBEDDED = Path(__file__).parent / "embedded"

# label -> the names that the architectures give it
_FACTS = {
    "architecture": ("model_type",),
    "layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "width": ("hidden_size", "n_embd", "d_model"),
    "heads": ("num_attention_heads", "n_head", "num_heads"),
    "context": ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"),
    "vocabulary": ("vocab_size",),
}


def recognises(config: dict[str, Any]) -> bool:
    """Return whether a configuration is a language model's that sees no later token, of text alone."""
    if not is_for(config, "CAUSAL_LM") or is_for(config, "IMAGE_TEXT_TO_TEXT", "MULTIMODAL_LM", "SEQ_TO_SEQ_CAUSAL_LM"):
        return False
    return sees_later_tokens(config) is None


def configuration(entry: Entry) -> dict[str, Any]:
    """Return the entry's config.json: of the registry, of its folder, or beside this file; {} if it is nowhere."""
    if entry.config:
        return dict(entry.config)
    folder = folder_of(entry)
    return (read_json_object(folder / CONFIG) if folder else None) or {}


def folder_of(entry: Entry) -> Path | None:
    """Return where the entry's files are; None without files."""
    return entry.folder or (EMBEDDED if entry.weights == "embedded" else None)


def describe(entry: Entry) -> dict[str, str]:
    """Return label → text, e.g. {"architecture": "gpt2", "layers": "12", …, "context": "1024 tokens"}."""
    config = configuration(entry)
    found = {label: next((config[name] for name in names if config.get(name)), None) for label, names in _FACTS.items()}
    units = {"context": " tokens", "vocabulary": " tokens"}
    return {label: f"{value}{units.get(label, '')}" for label, value in found.items() if value is not None}
