"""What a configuration says. Imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo import Entry


def recognises(config: dict[str, Any]) -> bool:
    """Return whether a configuration is a CLIPModel's."""
    return config.get("model_type") == "clip" and config.get("architectures", ["CLIPModel"]) == ["CLIPModel"]


def describe(entry: Entry) -> dict[str, str]:
    """Return facts for `zoo info` and the model card."""
    vision, text = (entry.config.get(f"{tower}_config", {}) for tower in ("vision", "text"))
    facts = {"image size": vision.get("image_size"), "patch size": vision.get("patch_size")}
    facts |= {"context": text.get("max_position_embeddings"), "shared space": entry.config.get("projection_dim")}
    return {label: str(value) for label, value in facts.items() if value}
