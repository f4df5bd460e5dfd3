"""Which library a configuration is of, by the keys that the library writes. Imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from zoo import CheckpointError
from zoo.integrations.auto_classes import class_names, model_type
from zoo.storage.config_json import read_config

if TYPE_CHECKING:
    from zoo import Entry

Library = Literal["transformers", "diffusers", "torch_geometric"]


def recognises(config: dict[str, Any]) -> Literal["fallback"] | None:
    """Return "fallback" for a configuration of one of the libraries: any other plugin's answer comes first."""
    return "fallback" if library_of(config) else None


def library_of(config: dict[str, Any]) -> Library | None:
    """Return the library that a configuration is of; None if it is of none of them."""
    if isinstance(config.get("_class_name"), str):
        return "diffusers"
    if model_type(config) or class_names(config):
        return "transformers"
    # PyG writes the arguments of a model or layer and nothing else.
    if "in_channels" in config and "architecture" not in config:
        return "torch_geometric"
    return None


def configuration(entry: Entry) -> dict[str, Any]:
    """Return the entry's config.json: from its folder if it is there, else as the registry has it.

    Raises:
        CheckpointError: there is none.
    """
    return read_config(entry)


def describe(entry: Entry) -> dict[str, str]:
    """Return facts for `zoo info` and the model card."""
    try:
        config = configuration(entry)
    except CheckpointError:
        return {}
    library = library_of(config)
    named = (config.get("_class_name"), *class_names(config), model_type(config))
    name = next((str(one) for one in named if one), "a model or layer, by its weights")
    return {"module": f"{library}: {name}"} if library else {}
