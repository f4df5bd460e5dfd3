"""What a configuration says. Imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo import Option

if TYPE_CHECKING:
    from zoo import Entry


def sample_kinds(entry: Entry) -> list[str]:
    """Return that samples are pictures."""
    return ["image"]


def sample_options(entry: Entry) -> list[Option]:
    """Return the spread of what images are made from."""
    return [Option("spread", 1.0, "standard deviation of z; below 1: likelier, less varied", low=0)]


def recognises(config: dict[str, Any]) -> bool:
    """Return whether a configuration is a DCGAN's."""
    return config.get("_class_name") == "DCGAN"


def describe(entry: Entry) -> dict[str, str]:
    """Return facts for `zoo info` and the model card."""
    names = {"size": "image size", "channels": "channels", "latent": "latent"}
    return {label: str(entry.config[name]) for name, label in names.items() if name in entry.config}
