"""One request's use of an adapter, from when it wants it until it needs it no more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoo.errors import ZooError


@dataclass(eq=False)
class Want:
    """What `AdapterStore.want` returns: the store changes it, others read it.

    Attributes:
        name: the adapter's; None for the base.
        had: whether it is leased.
        over: whether it is needed no more.
        no_room: whether the adapter is ready, and others take all the room.
        error: why it cannot be had.
    """

    name: str | None
    had: bool = False
    over: bool = False
    no_room: bool = False
    error: ZooError | None = None
