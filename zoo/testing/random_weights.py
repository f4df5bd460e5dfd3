"""Find a model to check an architecture with: the one that its plugin carries, or one with random weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch

from zoo.catalog import registry
from zoo.catalog.entry import EMBEDDED, Entry
from zoo.errors import PluginError
from zoo.loading.empty import meta_parameters
from zoo.model import Model
from zoo.plugin import hooks

SMALL = 20_000_000  # parameters: up to this many, a model without weights is checked with random ones


def source(subject: Subject) -> tuple[str, str | None]:
    """Return (name, weights) for `zoo.load`. Raises PluginError that says how to make the plugin checkable."""
    options = subject.options
    mine = [entry for entry in registry.entries() if entry.plugin == subject.name]
    if options.entry is not None:
        mine = [entry for entry in mine if entry.name == options.entry]
        if not mine:
            raise PluginError(f"plugin {subject.name!r} has no registry entry {options.entry!r} to be checked with")
    if options.folder is not None:
        return _named(subject, mine, Path(options.folder))
    if options.config is not None:
        entry = mine[0] if mine else Entry(subject.name, subject.name)
        return _named(subject, mine, _written(subject, replace(entry, config=dict(options.config))))
    carried = sorted((entry.name != subject.name, entry.name) for entry in mine if entry.weights == EMBEDDED)
    if carried:
        return carried[0][1], None
    for entry in mine:
        if entry.config and (options.entry or _size(entry) <= SMALL):
            return entry.name, str(_written(subject, entry))
    raise PluginError(
        f"plugin {subject.name!r} has no model to be checked with: give its registry.toml an entry with weights = "
        '"embedded" (and the folder embedded/ in its package) or with a small [name.config], or call '
        f'check_plugin("{subject.name}", config={{...}}) or folder=...'
    )


def _named(subject: Subject, mine: list[Entry], folder: Path) -> tuple[str, str | None]:
    if mine:
        return mine[0].name, str(folder)
    if "recognises" in subject.hooks:
        return f"{folder}/", None
    raise PluginError(
        f"plugin {subject.name!r} can be loaded under no name: give it an entry in a registry.toml beside its "
        "__init__.py, or the hook recognises"
    )


def _size(entry: Entry) -> int:
    with meta_parameters():
        module = hooks.construct(replace(entry, folder=None))
    return sum(parameter.numel() for parameter in module.parameters())


def _written(subject: Subject, entry: Entry) -> Path:
    """Write a folder with the entry's configuration and random weights, as `model.save` does, and return it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = hooks.construct(replace(entry, folder=None)).eval()
    folder = Model(module, entry, torch.device("cpu"), torch.float32).save(subject.new_folder())
    if not (folder / "config.json").is_file() and not (folder / "model_index.json").is_file():
        (folder / "config.json").write_text(json.dumps(dict(entry.config)))
    return folder


class Subject(Protocol):
    """What is needed of the plugin under test, whose own file imports this one."""

    name: str

    @property
    def options(self) -> Any:
        """The `Options` of the check."""

    @property
    def hooks(self) -> tuple[str, ...]:
        """The hooks that the plugin implements."""

    def new_folder(self) -> Path:
        """Return a path at which there is nothing yet."""
