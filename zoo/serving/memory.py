"""Freed memory goes back to the system: glibc keeps it, in pieces that the next batch of another shape does not fit.

A server that draws batches of many shapes would otherwise grow by what lies between them. Nothing is kept by zoo: all
of it is free, and `malloc_trim` gives it back in some milliseconds.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable
from functools import cache

EVERY = 1.0  # seconds between two returns under load: a thousandth of the time or so


class FreeMemory:
    """Gives memory that is free back to the system, now and then.

    Args:
        every: seconds between two times, at least.
    """

    def __init__(self, every: float = EVERY) -> None:
        self._every, self._last = every, time.monotonic()
        self.due = False  # whether something was done since it was given back

    def worked(self) -> None:
        """Note that something was done, and give back if it is time."""
        self.due = True
        if time.monotonic() - self._last >= self._every:
            self.give_back()

    def give_back(self) -> None:
        """Give back what is free."""
        self.due = False
        trim = _trim()
        if trim is not None:
            trim(0)
        self._last = time.monotonic()


@cache
def _trim() -> Callable[[int], int] | None:
    """Return glibc's `malloc_trim`; None where there is none (other systems' allocators give back by themselves)."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None
    return found
