"""What a configuration says. Imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo import Entry


def recognises(config: dict[str, Any]) -> bool:
    """Return whether a configuration is a ByteLSTM's."""
    return config.get("_class_name") == "ByteLSTM"


def describe(entry: Entry) -> dict[str, str]:
    """Return facts for `zoo info` and the model card."""
    return {name: str(entry.config[name]) for name in ("layers", "hidden", "embedding") if name in entry.config}
