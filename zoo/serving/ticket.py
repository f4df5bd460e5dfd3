"""A submitted request: its events as they come, its result, and the way to cancel it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator

from zoo.errors import ZooError
from zoo.serving.want import Want
from zoo.serving.work import CancelledError, Done, Piece, TimeLimitError, Work

log = logging.getLogger(__name__)
Event = Piece | Done | ZooError  # an error, like `Done`, is the last one


class Ticket:
    """What `Runtime.submit` returns. Any thread may use it.

    Attributes:
        work: the request.
        deadline: until when it has to be answered, in seconds of `time.monotonic`.
        want: its use of an adapter, which the runtime begins and ends.
    """

    def __init__(self, work: Work, seconds: float, ended: Callable[[Ticket], None]) -> None:
        self.work, self.want = work, Want(work.adapter)
        self.deadline = time.monotonic() + seconds
        self._seconds = seconds
        self._tell_runtime = ended
        self._events: list[Event] = []
        self._listeners: list[Callable[[Event], None]] = []
        self._changed = threading.Condition(threading.RLock())

    @property
    def ended(self) -> bool:
        """Whether nothing more will come: it is done, failed, or cancelled."""
        return bool(self._events) and not isinstance(self._events[-1], Piece)

    @property
    def last(self) -> Event | None:
        """The newest event."""
        return self._events[-1] if self._events else None

    def events(self, timeout: float | None = None) -> Iterator[Piece | Done]:
        """Yield the pieces of a text, if the request wants them, and at last `Done`.

        Args:
            timeout: seconds until the next event at most; None waits as long as the request may take.

        Raises:
            ZooError: the request failed or was cancelled.
            TimeLimitError: nothing came in time; the request goes on.
        """
        seen = 0
        while True:
            with self._changed:
                if not self._changed.wait_for(lambda seen=seen: len(self._events) > seen, timeout):  # type: ignore[misc]
                    raise TimeLimitError(f"no answer in {timeout:g} s: wait longer, or cancel the request")
                event = self._events[seen]
            seen += 1
            if isinstance(event, ZooError):
                raise event
            yield event
            if isinstance(event, Done):
                return

    def result(self, timeout: float | None = None) -> Done:
        """Wait for the end and return it.

        Args:
            timeout: seconds at most; None waits as long as the request may take.

        Raises:
            ZooError: the request failed or was cancelled.
            TimeLimitError: it did not end in time; it goes on.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self.ended, timeout):
                raise TimeLimitError(f"no answer in {timeout:g} s: wait longer, or cancel the request")
            last = self._events[-1]
        if isinstance(last, ZooError):
            raise last
        assert isinstance(last, Done)
        return last

    def cancel(self) -> None:
        """End the request with `CancelledError`, unless it has ended; what it takes is free again soon."""
        self.end(CancelledError("the request was cancelled"))

    def on_event(self, listener: Callable[[Event], None]) -> None:
        """Call a function with every event: a `Piece`, and at last `Done` or the error.

        It is called in the thread that works, one event after the other, and has to return at once
        (`loop.call_soon_threadsafe` does); with what has come before, in this thread. If it raises, the request is
        cancelled.

        Args:
            listener: the function.
        """
        with self._changed:
            for event in self._events:
                self._call(listener, event)
            self._listeners.append(listener)

    # For the runtime

    def say(self, piece: Piece) -> None:
        """Add a piece, unless the request has ended."""
        with self._changed:
            if not self.ended:
                self._add(piece)

    def end(self, last: Done | ZooError) -> bool:
        """Add the last event; returns False if the request has ended before."""
        with self._changed:
            if self.ended:
                return False
            self._add(last)
        self._tell_runtime(self)
        return True

    def expire(self) -> None:
        """End the request, which took too long."""
        self.end(TimeLimitError(f"the request took longer than {self._seconds:g} s: ask for less, or later"))

    def _add(self, event: Event) -> None:
        self._events.append(event)
        self._changed.notify_all()
        for listener in tuple(self._listeners):
            self._call(listener, event)

    def _call(self, listener: Callable[[Event], None], event: Event) -> None:
        try:
            listener(event)
        except Exception:
            log.warning("a listener of a request failed: the request is cancelled", exc_info=True)
            if listener in self._listeners:
                self._listeners.remove(listener)
            self.cancel()
