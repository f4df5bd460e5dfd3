"""The configuration of a causal language model. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import Heads
from zoo.integrations import transformers_heads
from zoo.storage.config_json import CONFIG, read_json_object

if TYPE_CHECKING:
    from zoo import Entry

EMBEDDED = Path(__file__).parent / "embedded"

CLASSIFIERS = (transformers_heads.SEQUENCE, transformers_heads.TOKEN)
TASKS = ("classify", "multilabel", "regress", "tokens")

# label -> the names that the architectures give it
_FACTS = {
    "architecture": ("model_type",),
    "layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "width": ("hidden_size", "n_embd", "d_model"),
    "heads": ("num_attention_heads", "n_head", "num_heads"),
    "context": ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"),
    "vocabulary": ("vocab_size",),
}


def recognises(config: dict[str, Any]) -> bool | None:
    """Return whether a configuration is a causal language model's, also with another head or without any.

    None where it does not say what it is.
    """
    architectures = [str(name) for name in config.get("architectures") or []]
    kind = str(config.get("model_type"))
    if any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in architectures):
        return True
    if any(name.endswith(CLASSIFIERS) or transformers_heads.is_body(name, kind) for name in architectures):
        from .model import is_decoder

        return is_decoder(kind)
    if architectures:
        return False
    if not isinstance(config.get("model_type"), str):
        return None
    from .model import is_causal

    return is_causal(config["model_type"])


def configuration(entry: Entry) -> dict[str, Any]:
    """Return the entry's config.json: of the registry, of its folder, or beside this file; {} if it is nowhere.

    With the head, if the entry has one.
    """
    return transformers_heads.with_head(_stored(entry), entry.head)


def heads(entry: Entry) -> Heads:
    """Return the tasks that a head may be for, and the head that the checkpoint has."""
    return Heads(TASKS, transformers_heads.own_head(_stored(entry)))


def classifies(config: dict[str, Any]) -> bool:
    """Return whether the configuration is a text classifier's, and not a language model's."""
    return any(str(name).endswith(CLASSIFIERS) for name in config.get("architectures") or [])


def _stored(entry: Entry) -> dict[str, Any]:
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
    labels = [str(label) for label in (config.get("id2label") or {}).values()] if classifies(config) else []
    task = {"task": "classifies text"} if classifies(config) else {}
    task |= {"classes": ", ".join(labels)} if labels else {}
    return task | {label: f"{value}{units.get(label, '')}" for label, value in found.items() if value is not None}
