"""The adapters of a served model by name: read by threads of their own, attached when they are first used, evicted.

All that use a served model have one store. An adapter is wanted first, which begins to read its files; whoever works
with the model then asks for a lease again and again, which never waits for a disk or a network. Adapters that nobody
uses make room for those that are ready.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from zoo.adapters.prepared import PreparedAdapter
from zoo.errors import AdapterError, UnknownNameError, ZooError, did_you_mean, one_line
from zoo.hub import saved_adapters
from zoo.methods.config import check_name
from zoo.serving.want import Want

if TYPE_CHECKING:
    from zoo.model import Model

log = logging.getLogger(__name__)
READERS = 4  # adapters that are read, or are ready and wait for room, at once: so many beside those in memory
_PATIENCE = 5.0  # seconds in which `close` waits for readers and users: a read of a dead disk ends by itself or never


class AdapterStore:
    """Which adapters are in memory, and how many requests use each. Any thread may use it.

    Adapters that the model has already are used as well, and never evicted.

    Args:
        model: the model.
        places: name → folder or Hub reference.
        most: adapters in memory at once.

    Raises:
        AdapterError: a name is not valid, or the model has an adapter of this name.
    """

    def __init__(self, model: Model, places: Mapping[str, str], most: int) -> None:
        self._model, self._places, self._most = model, dict(places), max(1, most)
        self._own = tuple(model.adapters)
        self._users: dict[str, int] = {}  # of those in memory, the one that was not used for longest first
        self._waiting: dict[str, list[Want]] = {}  # by adapter, the one that was wanted first first
        self._reading: dict[str, threading.Thread] = {}
        self._ready: dict[str, PreparedAdapter] = {}
        self._listeners: list[Callable[[], None]] = []
        self._attaching: str | None = None
        self._closed = False
        self.evictions = 0
        self._lock = threading.Condition()  # of all the above; nothing slow is done with it
        self._changes = threading.Lock()  # of who makes an adapter ready, attaches or removes one
        for name in self._places:
            check_name(name)
            if name in self._own:
                raise AdapterError(f"the model has an adapter {name!r} already: choose another name")

    @property
    def names(self) -> list[str]:
        """All names, the model's own first."""
        return [*self._own, *self._places]

    @property
    def loaded(self) -> list[str]:
        """The names of those in memory."""
        return [*self._own, *self._users]

    def check(self, name: str | None) -> None:
        """Raise `UnknownNameError` if there is no adapter of this name; None is the base."""
        if name is not None and name not in self._own and name not in self._places:
            listed = ", ".join(self.names[:20]) or "none"
            raise UnknownNameError(f"no adapter {name!r}; there are {listed}.{did_you_mean(name, self.names)}")

    def listen(self, listener: Callable[[], None]) -> None:
        """Call a function, in any thread, whenever a lease that was not to be had may be had now, or fails."""
        self._listeners.append(listener)

    def want(self, name: str | None) -> Want:
        """Want an adapter, None for the base, and begin to read it; `end` has to follow.

        Raises:
            UnknownNameError: there is none of this name.
        """
        self.check(name)
        want = Want(name)
        if name is not None and name not in self._own:
            with self._lock:
                self._waiting.setdefault(name, []).append(want)
                self._read_next()
        return want

    def lease(self, want: Want) -> bool:
        """Have the adapter in memory until `end`; returns False while it is read, or others take all the room.

        It may attach the adapter, which is short, but waits for passes of other threads.

        Raises:
            ZooError: it cannot be loaded; the model is as it was.
        """
        name = want.name
        if name is None or name in self._own:
            return True
        with self._lock:
            want.no_room = False
            if want.error is not None:
                raise want.error
            if want.over or self._closed:
                return False
            if want.had or name in self._users:
                self._take(want)
                return True
            prepared = self._ready.get(name)
            if prepared is None:
                self._read_next()  # it may have been evicted since
                return False
            leaving = self._leaving()
            want.no_room = leaving is None
            if leaving is None or not self._changes.acquire(blocking=False):
                return False
            for one in leaving:
                del self._users[one]
            self._attaching = name
        error = self._attach(prepared, leaving)
        with self._lock:
            self._attaching = None
            self._ready.pop(name, None)
            self.evictions += len(leaving)
            if error is None:
                self._users[name] = 0
                if not want.over:
                    self._take(want)
            else:
                self._fail(name, error)
            self._read_next()
            self._lock.notify_all()
            self._changes.release()  # only now: nobody may find it ready, and not yet in memory
        self._tell()
        if error is not None:
            raise error
        return want.had

    def end(self, want: Want) -> None:
        """End one use of an adapter, or the wish for it. It may be ended again."""
        if want.over or want.name is None or want.name in self._own:
            return
        with self._lock:
            if want.over:
                return
            if want.had:
                if want.name in self._users:
                    self._users[want.name] -= 1
            else:
                self._no_longer_waits(want)
            want.had, want.over = False, True
            self._read_next()
            self._lock.notify_all()
        self._tell()

    def close(self) -> None:
        """Remove from the model what was loaded into it, and attach nothing more.

        What is used is waited for, and what is read, for some seconds; a thread that still reads then ends by itself.
        """
        end = time.monotonic() + _PATIENCE
        with self._lock:
            self._closed = True
            self._ready.clear()
            readers = list(self._reading.values())
            self._lock.wait_for(lambda: not any(self._users.values()), _PATIENCE)
        for thread in readers:
            thread.join(max(0.0, end - time.monotonic()))
        with self._changes:
            for name in tuple(self._users):
                del self._users[name]
                self._model.remove_adapter(name)
        self._tell()

    # With the lock held

    def _take(self, want: Want) -> None:
        assert want.name is not None
        if not want.had:
            self._users[want.name] = self._users.pop(want.name) + 1
            want.had = True
            self._no_longer_waits(want)

    def _no_longer_waits(self, want: Want) -> None:
        assert want.name is not None
        others = self._waiting.get(want.name, [])
        if want in others:
            others.remove(want)
        if not others:
            self._waiting.pop(want.name, None)
            self._ready.pop(want.name, None)  # which nobody wants any more, or which is in memory

    def _leaving(self) -> list[str] | None:
        """Return which adapters have to go for one more; None if too few can."""
        count = len(self._users) - self._most + 1
        idle = [name for name, users in self._users.items() if not users]
        idle.sort(key=lambda name: name in self._waiting)  # those that are wanted again last
        return None if count > len(idle) else idle[: max(0, count)]

    def _read_next(self) -> None:
        """Begin to read what is wanted, in order, as many at once as may be."""
        for name in () if self._closed else tuple(self._waiting):
            if len(self._reading) + len(self._ready) >= READERS:
                return
            there = name in self._users or name in self._ready or name == self._attaching
            if not there and name not in self._reading:
                thread = threading.Thread(target=self._read, args=(name,), name=f"zoo-reading-{name}", daemon=True)
                self._reading[name] = thread
                thread.start()

    def _fail(self, name: str, error: ZooError) -> None:
        """Let those that want an adapter now have an error; who asks later has it read again."""
        for want in self._waiting.pop(name, ()):
            want.error = error

    # Without it

    def _tell(self) -> None:
        for listener in tuple(self._listeners):
            listener()

    def _read(self, name: str) -> None:
        """Read an adapter and make it ready, in a thread of its own."""
        prepared, error = None, None
        try:
            found = saved_adapters.read(self._model.entry, self._places[name])
            with self._changes:
                if not self._closed:
                    prepared = self._model.prepare_adapter(name, found)
        except Exception as raised:
            error = self._said(name, raised)
        with self._lock:
            del self._reading[name]
            if error is not None:
                self._fail(name, error)
            elif prepared is not None and name in self._waiting and not self._closed:
                self._ready[name] = prepared
            self._read_next()
            self._lock.notify_all()
        self._tell()

    def _attach(self, prepared: PreparedAdapter, leaving: list[str]) -> AdapterError | None:
        try:
            for name in leaving:
                self._model.remove_adapter(name)
            self._model.adapter_set.attach(prepared, active=False)
        except Exception as raised:
            log.exception("adapter %r could not be attached", prepared.name)
            return self._said(prepared.name, raised)
        return None

    def _said(self, name: str, error: Exception) -> AdapterError:
        if isinstance(error, ZooError):
            found = AdapterError(f"adapter {name!r} cannot be loaded: {error}")
        else:  # whatever a library's reader raises about a file
            found = AdapterError(f"adapter {name!r} cannot be loaded from {self._places[name]}: {one_line(error)}")
        found.__cause__ = error.with_traceback(None)
        return found
