"""The commands by name, each imported when it is first asked for: `zoo list` need not wait for the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module

import click


class Commands(Mapping[str, click.Command]):
    """Commands by name.

    Args:
        modules: command → the module of `zoo.cli` in whose `COMMANDS` it is.
    """

    def __init__(self, modules: Mapping[str, str]) -> None:
        self._modules = modules

    def __getitem__(self, name: str) -> click.Command:
        module = import_module(f"zoo.cli.{self._modules[name]}")
        found: click.Command = next(command for command in module.COMMANDS if command.name == name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)
