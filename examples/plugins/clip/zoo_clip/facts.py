"""What a configuration says. Imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo import Option

if TYPE_CHECKING:
    from zoo import Entry


def sample_kinds(entry: Entry) -> list[str]:
    """Return that samples are probabilities of classes."""
    return ["posterior"]


def sample_options(entry: Entry) -> list[Option]:
    """Return which images are compared with which texts."""
    return [
        Option("images", None, "pictures to classify, all of them", type="images", each=True),
        Option("labels", None, "the texts to choose from; None: those of the data", type="texts"),
        Option("data", None, "data of whose held-out images n are drawn [letters]", type="data"),
        Option("top_k", 5, "how many texts are shown", low=1),
    ]


def recognises(config: dict[str, Any]) -> bool:
    """Return whether a configuration is a CLIPModel's."""
    return config.get("model_type") == "clip" and config.get("architectures", ["CLIPModel"]) == ["CLIPModel"]


def describe(entry: Entry) -> dict[str, str]:
    """Return facts for `zoo info` and the model card."""
    vision, text = (entry.config.get(f"{tower}_config", {}) for tower in ("vision", "text"))
    facts = {"image size": vision.get("image_size"), "patch size": vision.get("patch_size")}
    facts |= {"context": text.get("max_position_embeddings"), "shared space": entry.config.get("projection_dim")}
    return {label: str(value) for label, value in facts.items() if value}
