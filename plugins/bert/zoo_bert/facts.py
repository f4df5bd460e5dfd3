"""The configuration of a masked language model or a text classifier. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import Heads
from zoo.integrations import transformers_heads
from zoo.integrations.auto_classes import classes_of, has_parts, is_for, sees_later_tokens
from zoo.integrations.transformers_heads import classifies as classifies
from zoo.storage.config_json import CONFIG, read_json_object

if TYPE_CHECKING:
    from zoo import Entry

EMBEDDED = Path(__file__).parent / "embedded"
CLASSIFIERS = (transformers_heads.SEQUENCE, transformers_heads.TOKEN)
BODY = ""  # in transformers' tables
TASKS = ("classify", "multilabel", "regress", "tokens")

# label -> the names that the architectures give it
_FACTS = {
    "architecture": ("model_type",),
    "layers": ("num_hidden_layers", "n_layers"),
    "width": ("hidden_size", "dim", "emb_dim"),
    "heads": ("num_attention_heads", "n_heads"),
    "context": ("max_position_embeddings",),
    "vocabulary": ("vocab_size",),
}


def recognises(config: dict[str, Any]) -> bool:
    """Return whether a configuration is a masked language model's, or a text classifier's or the body of one alone."""
    if not config.get("architectures") or is_for(config, "SEQ_TO_SEQ_CAUSAL_LM"):
        return False
    if is_for(config, "MASKED_LM"):
        # XLM has one class for both.
        taken = not is_for(config, "CAUSAL_LM") or sees_later_tokens(config) is not None
    else:
        taken = is_masked(str(config.get("model_type"))) and is_for(config, *CLASSIFIERS, "PRETRAINING", BODY)
    return taken and not has_parts(config)


def is_masked(model_type: str) -> bool:
    """Return whether transformers can build a masked language model of this type without running foreign code."""
    return model_type in classes_of("MASKED_LM")


def configuration(entry: Entry) -> dict[str, Any]:
    """Return the entry's config.json: of the registry, of its folder, or beside this file; {} if it is nowhere.

    With the head, if the entry has one.
    """
    return transformers_heads.with_head(_stored(entry), entry.head)


def _stored(entry: Entry) -> dict[str, Any]:
    if entry.config:
        return dict(entry.config)
    folder = folder_of(entry)
    return (read_json_object(folder / CONFIG, entry) if folder else None) or {}


def heads(entry: Entry) -> Heads:
    """Return the tasks that a head may be for, and the head that the checkpoint has."""
    return Heads(TASKS, transformers_heads.own_head(_stored(entry)))


def folder_of(entry: Entry) -> Path | None:
    """Return where the entry's files are; None without files."""
    return entry.folder or (EMBEDDED if entry.weights == "embedded" else None)


def is_bare(config: dict[str, Any]) -> bool:
    """Return whether the configuration is a body's without any head, such as `BertModel`."""
    return bool(config.get("architectures")) and is_for(config, BODY) and not is_for(config, "MASKED_LM", "PRETRAINING")


def describe(entry: Entry) -> dict[str, str]:
    """Return label → text, e.g. {"task": "fills masks", "architecture": "bert", "layers": "12", …}."""
    config = configuration(entry)
    labels = [str(label) for label in (config.get("id2label") or {}).values()]
    found = {label: next((config[name] for name in names if config.get(name)), None) for label, names in _FACTS.items()}
    units = {"context": " tokens", "vocabulary": " tokens"}
    task = {"task": "classifies text" if classifies(config) else "fills masks"} if config else {}
    task |= {"classes": ", ".join(labels)} if labels and classifies(config) else {}
    return task | {label: f"{value}{units.get(label, '')}" for label, value in found.items() if value is not None}
