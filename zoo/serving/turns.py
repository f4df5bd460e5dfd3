"""Whose turn it is: requests in a fair order, and the worker's time shared between texts and batches."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoo.serving.ticket import Ticket

PASSES = 16  # requests that may pass one whose adapter has no room yet
PART = 8  # a batch that is drawn while texts wait has so many times fewer samples than one that keeps nobody waiting


def in_turn(waiting: Iterable[Ticket], running: Iterable[Ticket]) -> list[Ticket]:
    """Return waiting requests in the order in which they begin.

    The adapter with the fewest samples, of those that run and of those that have been put in this order already, has
    the next turn; of equal ones the request that came first. So many requests to one adapter wait for each other, and a
    single one to another adapter does not wait for all of them. No adapter waits forever: its requests that run end.

    Args:
        waiting: Requests as they came.
        running: Requests that were begun and have not ended.
    """
    ahead: Counter[str | None] = Counter()
    for ticket in running:
        ahead[ticket.work.adapter] += ticket.work.n
    places: list[int] = []
    waiting = list(waiting)
    for ticket in waiting:
        places.append(ahead[ticket.work.adapter])
        ahead[ticket.work.adapter] += ticket.work.n
    return [waiting[number] for number in sorted(range(len(waiting)), key=places.__getitem__)]


class Shares:
    """Half of the time for texts and half for batches, where both wait.

    After a batch no other is drawn until texts were continued for as long as it took, or there are none.

    Args:
        now: The time, in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now, self._owed = now, 0.0

    @property
    def texts_first(self) -> bool:
        """Whether texts, if there are any, come before a batch."""
        return self._owed > 0

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Count the block's time as a batch's."""
        begun = self._now()
        try:
            yield
        finally:
            self._owed += self._now() - begun

    @contextmanager
    def step(self) -> Iterator[None]:
        """Count the block's time as that of texts."""
        begun = self._now()
        try:
            yield
        finally:
            self._owed = max(0.0, self._owed - (self._now() - begun))

    def no_texts(self) -> None:
        """Owe nothing: there are no texts."""
        self._owed = 0.0
