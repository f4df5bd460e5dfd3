"""Names of the previous release: import paths and public names that still work, with a warning.

Everything here goes in version 0.3.

Imports: nothing of zoo at module level. Start with the tables `MODULES` and `NAMES`.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from functools import wraps
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

# Module of version 0.1 → where its content is now.
MODULES = {
    "zoo.checkpoint": "zoo.storage.checkpoint",
    "zoo.files": "zoo.storage.atomic",
    "zoo.footprint": "zoo.weights.footprint",
    "zoo.host": "zoo.plugin.hooks",
    "zoo.hookspecs": "zoo.plugin.hookspecs",
    "zoo.libraries": "zoo.integrations",
    "zoo.libraries.transformers": "zoo.integrations.transformers",
    "zoo.registry": "zoo.catalog.registry",
    "zoo.requests": "zoo.plugin.requests",
    "zoo.adapters.config": "zoo.methods.config",
    "zoo.adapters.targets": "zoo.methods.targets",
    "zoo.weights.packed": "zoo.weights.quantized_tensor",
    "zoo.weights.standin": "zoo.weights.lazy_weight",
    "zoo.weights.store": "zoo.weights.managed_weight",
}

# Public name of version 0.1 → its name now.
NAMES = {"LowRank": "LoRAUpdate", "Packed": "QuantizedTensor", "Weight": "LazyWeight"}


class _OldModules:
    """Import a module of version 0.1 as the module that holds its content now (a finder and a loader)."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name in MODULES else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        warn(f"{spec.name} is now {MODULES[spec.name]}")
        module = import_module(MODULES[spec.name])
        spec.loader_state = module.__spec__  # which the import system is about to replace
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = module.__spec__.loader_state  # type: ignore[union-attr]


def install() -> None:
    """Let old modules be imported; at most once."""
    if not any(isinstance(finder, _OldModules) for finder in sys.meta_path):
        # First: in zoo.libraries, which is zoo.integrations, Python's own finder finds a second transformers.py.
        sys.meta_path.insert(0, _OldModules())


def warn(text: str) -> None:
    """Warn that an old name is used, at the first line outside zoo and the import system."""
    warnings.warn(f"{text}; the old name goes in version 0.3", DeprecationWarning, stacklevel=_depth())


def renamed_arguments(names: Mapping[str, str]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator that lets keyword arguments be given by their old names, with a warning.

    Args:
        names: old name → name now.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for old in names.keys() & kwargs.keys():
                warn(f"the argument {old} of {function.__name__} is now {names[old]}")
                if names[old] in kwargs:
                    raise TypeError(f"{function.__name__}() got {old} and {names[old]}, which are one argument")
                kwargs[names[old]] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return decorate


def _depth() -> int:
    frame, depth = sys._getframe(1), 1
    while frame.f_back is not None and _inside(frame.f_globals.get("__name__", "")):
        frame = frame.f_back
        depth += "importlib._bootstrap" not in frame.f_code.co_filename  # warnings does not count these either
    return depth


def _inside(module: str) -> bool:
    return module.partition(".")[0] in ("zoo", "importlib", "_frozen_importlib")


def renamed(name: str) -> str | None:
    """Return the new name of a public name of version 0.1, with a warning; None for any other."""
    if name in NAMES:
        warn(f"zoo.{name} is now zoo.{NAMES[name]}")
        return NAMES[name]
    return None
