"""Turns of threads at one module: many use it at once, or one alone changes it.

A forward pass in the middle of which adapters are merged would mix two states. So a change waits until no other thread
uses the module, and whoever comes later waits for the change. A thread that uses the module may use it again, and may
change it if it is the only one; one that changes it may do both. Entering and leaving costs less than a microsecond.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any

from torch import nn

from zoo.errors import ZooError

log = logging.getLogger(__name__)
PATIENCE = 30.0  # seconds of waiting until the log says so
_KEPT = "_zoo_turns"
LIMIT = 1800.0  # seconds of waiting until it is an error


class Turns:
    """Whose turn it is at a module. As a context manager it is a turn to use it."""

    def __init__(self) -> None:
        # The threads that use the module, each as often as it has begun to. A list, because appending and removing are
        # one step each and cheap.
        self._users: list[int] = []
        self._changer: int | None = None  # the thread that changes the module, or that will when the others are done
        self._depth = 0
        self._waiting = 0  # threads that wait for a change to end: they come before the next change
        self._condition = threading.Condition()

    def __enter__(self) -> None:
        # Without a lock: first say that this thread is here, then look for another that changes. `changing` looks in
        # the other order, so that at least one of two sees the other.
        self._users.append(get_ident())
        if self._changer is not None:
            self._give_way(get_ident())

    def __exit__(self, *_: object) -> None:
        self._users.remove(get_ident())
        if self._changer is not None:
            with self._condition:
                self._condition.notify_all()

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Wait until no other thread uses or changes the module, and keep others out in the block.

        Raises:
            ZooError: another thread waits for this one to leave, in order to change the module itself; or waiting took
                longer than any call should.
        """
        me = get_ident()
        with self._condition:
            if self._changer != me:
                if self._changer is not None and me in self._users:
                    raise ZooError(
                        "two threads want to change a model in the middle of its forward pass, and each would wait for "
                        "the other: change it from one thread, or after the forward pass"
                    )
                self._wait(lambda: self._changer is None and not self._waiting)
                self._changer = me
                try:
                    self._wait(lambda: self._users.count(me) == len(self._users))
                except BaseException:
                    self._changer = None
                    self._condition.notify_all()
                    raise
            self._depth += 1
        try:
            yield
        finally:
            with self._condition:
                self._depth -= 1
                if not self._depth:
                    self._changer = None
                    self._condition.notify_all()

    def _give_way(self, me: int) -> None:
        with self._condition:
            if self._changer == me or self._users.count(me) > 1:
                return
            self._users.remove(me)
            self._waiting += 1
            self._condition.notify_all()
            try:
                self._wait(lambda: self._changer is None)
                self._users.append(me)
            finally:
                self._waiting -= 1
                self._condition.notify_all()

    def _wait(self, ready: Callable[[], bool]) -> None:
        begun, told = time.monotonic(), False
        while not self._condition.wait_for(ready, timeout=PATIENCE):
            if time.monotonic() - begun > LIMIT:
                raise ZooError(
                    f"waited {LIMIT:.0f} s for another thread that uses or changes this model: end its call first, or "
                    "give each thread a model of its own"
                )
            if not told:
                log.warning("waiting for another thread that uses or changes this model")
                told = True

    def __deepcopy__(self, memo: Any) -> Turns:
        return Turns()

    def __reduce__(self) -> tuple[Any, ...]:
        return Turns, ()


def shared_turns(*modules: nn.Module) -> Turns:
    """Return the turns at modules that stand for one another, such as a wrapper and what is in it."""
    kept = next((one.__dict__[_KEPT] for one in modules if _KEPT in one.__dict__), None)
    turns = Turns() if kept is None else kept
    for one in modules:
        one.__dict__[_KEPT] = turns  # on the module, so that a copy of it has a copy that belongs to it
    return turns


def turns_of(module: nn.Module) -> Turns:
    """Return the turns at a module; new ones, which nobody else knows, at one that has none."""
    return module.__dict__.get(_KEPT) or Turns()


def forget_turns(*modules: nn.Module) -> None:
    """Leave nothing of `shared_turns` on modules."""
    for one in modules:
        one.__dict__.pop(_KEPT, None)
