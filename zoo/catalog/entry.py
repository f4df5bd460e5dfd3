"""The catalogue entry of a model that `zoo.load` can load by name. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from zoo.catalog.head import Head

EMBEDDED = "embedded"  # weights inside the plugin's package, in a folder of this name
RANDOM = "random"  # weights as the library initialises them, to train from


@dataclass(frozen=True)
class Entry:
    """A model that can be loaded: its plugin, weights, configuration and defaults.

    Attributes:
        name: the name as the user gave it.
        plugin: the architecture's entry point; None for a module wrapped without a plugin.
        weights: "embedded", a Hub repository, a local folder, "random", or None for a model without weights.
        revision: the branch, tag or commit of the Hub repository; None for its default branch.
        license: the licence of the weights, if known.
        summary: one line about the model.
        config: the model's configuration, from the registry or its `config.json`.
        targets: LoRA's default targets (suffixes of parameter paths, or "all"); None: all.
        modules_to_save: modules that train fully beside `lora=RANK`, as in `zoo.LoRA`.
        keep: suffixes of the parameter paths that stay in full precision.
        demo: arguments of `zoo demo` for this model.
        pretrain: arguments of `Model.tune` to train the model from random weights with.
        folder: the folder with the model's files, once resolved; None before, and where only the structure is needed.
        source: where the entry came from.
        adapter: the saved adapter's folder, if the name is that of an adapter; all other fields are its base's.
        head: the new head, or the images, that `zoo.load` was asked for; None: all as the checkpoint has it.
    """

    name: str
    plugin: str | None
    weights: str | None = None
    revision: str | None = None
    license: str | None = None
    summary: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    targets: tuple[str, ...] | Literal["all"] | None = None
    modules_to_save: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    demo: dict[str, Any] = field(default_factory=dict)
    pretrain: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    source: Literal["registry", "hub", "folder", "module"] = "registry"
    adapter: Path | None = None
    head: Head | None = None


def is_hub(weights: str | None) -> bool:
    """Return whether `weights` is a Hub repository or a folder, and not embedded in the plugin."""
    return weights is not None and weights != EMBEDDED
