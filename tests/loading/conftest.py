"""The tiny architecture as a plugin of this process, and a module of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.plugin import hooks

from .tiny import Tiny, fresh


@pytest.fixture
def tiny_plugin() -> Iterator[None]:
    """Register an architecture "tiny" in this process."""
    plugin = ModuleType("zoo_tiny")

    @zoo.hookimpl
    def construct(entry: zoo.Entry) -> nn.Module:
        module = Tiny(**{key: value for key, value in entry.config.items() if key in ("width", "tie")})
        if entry.config.get("tie", True):
            module.head.weight = module.embed.weight
        return module

    plugin.construct = construct  # type: ignore[attr-defined]
    hooks.reset()
    hooks.register(plugin, "tiny")
    yield
    hooks.reset()


@pytest.fixture
def open_(monkeypatch: pytest.MonkeyPatch) -> Callable[..., zoo.Model]:
    """Return open_(folder, …): `zoo.load` of a folder that the tiny plugin recognises."""
    from zoo.loading import resolve

    monkeypatch.setattr(resolve, "_recognised", lambda name, config: "tiny")

    def load(folder: Path, **options: Any) -> zoo.Model:
        return zoo.load(str(folder), device=options.pop("device", "cpu"), **options)

    return load


@pytest.fixture
def module() -> Tiny:
    return fresh()


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(0, 10, (3, 8))
