"""What an adapter is before it belongs to a module."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor

from zoo.methods.config import Adapter
from zoo.weights.update import Update
from zoo.weights.walk import TiedGroup


class PreparedAdapter(NamedTuple):
    """An adapter that is ready to be attached, which cannot fail any more.

    Attributes:
        name: The adapter's name.
        config: Its configuration.
        updates: Its updates, by the name of each weight's first place.
        record: For a saved one, the content of its `zoo.json`.
        groups: The module's parameters, from the walk that found the weights.
        buffers: Values of persistent buffers that belong to it, by name.
    """

    name: str
    config: Adapter
    updates: dict[str, Update]
    record: Mapping[str, Any] | None = None
    groups: list[TiedGroup] | None = None
    buffers: Mapping[str, Tensor] = MappingProxyType({})
