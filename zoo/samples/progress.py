"""A progress bar for samplers of many steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")


def track(items: Sequence[T], title: str) -> Iterable[T]:
    """Return `items` to loop over, with a bar on stderr where that is a terminal.

    Args:
        items: for instance the steps of a sampler.
        title: what is going on.
    """
    from rich.console import Console
    from rich.progress import track as with_bar

    console = Console(stderr=True)
    if not console.is_terminal:  # rich of 2024 writes an empty line there even for a bar that is disabled
        return items
    return with_bar(items, title, console=console, transient=True)
