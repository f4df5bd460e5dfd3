"""A plugin of decorated functions, one declared as a table, and what the host looks at of a model."""

from __future__ import annotations

import sys

from torch import nn

import zoo
from zoo.plugin import hooks

GOOD = """
    import zoo

    @zoo.hookimpl
    def recognises(config):
        return config.get("model_type") == "{name}"

    @zoo.hookimpl
    def construct(entry):
        from torch import nn

        return nn.Linear(2, 3)

    @zoo.hookimpl
    def loss(batch):
        return batch.sum()

    @zoo.hookimpl
    def describe(entry):
        return {{"who": "{name}"}}
"""
INIT = """
    import zoo

    zoo.hooks(
        construct=".model",
        loss=".training",
        batches=".training:endless",
        describe=lambda entry: {"who": entry.name},
    )

    @zoo.hookimpl
    def recognises(config):
        return config.get("model_type") == "mine"
"""
MODEL = """
    from torch import nn

    def construct(entry):
        return nn.Linear(2, entry.config.get("width", 3))
"""
TRAINING = """
    import torch

    calls = []

    def loss(batch):
        calls.append("loss")
        return batch.sum()

    def endless(data, request, *, model, skip=0):
        while True:
            yield torch.full((request.batch_size,), float(data + skip))
"""
FILES = {"__init__.py": INIT, "model.py": MODEL, "training.py": TRAINING}


class Bare:
    """What the host's functions look at of a model."""

    def __init__(self, entry: zoo.Entry) -> None:
        self.entry = entry
        self.module = nn.Identity()


def entry(plugin: str | None = "mine", **more) -> zoo.Entry:
    return zoo.Entry("some-model", plugin, **more)


def good(site, name: str = "good") -> None:
    site.install(f"dist-{name}", {name: f"pkg_{name}"}, {f"pkg_{name}/__init__.py": GOOD.format(name=name)})


def plugin_module(name: str, **functions) -> None:
    """Register an in-process plugin with these hook functions."""
    module = type(sys)(name)
    for hook, function in functions.items():
        setattr(module, hook, zoo.hookimpl(function))
    hooks.register(module, name)


def install(site, files: dict[str, str] | None = None, **changed: str) -> None:
    """The plugin `mine` of the package zoo_mine, with some of its files changed."""
    files = {**(files or FILES), **{f"{name}.py": text for name, text in changed.items()}}
    site.install("zoo-mine", {"mine": "zoo_mine"}, {f"zoo_mine/{name}": text for name, text in files.items()})


def with_table(row: str) -> str:
    return f"import zoo\nzoo.hooks({row})\n"
