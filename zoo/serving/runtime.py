"""`Runtime`: a queue of requests to one model, and the thread that works on it."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Hashable, Mapping
from contextlib import nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

import torch

from zoo.errors import ZooError
from zoo.plugin import hooks
from zoo.plugin.engines import Ended, Prepared
from zoo.plugin.requests import SampleRequest
from zoo.serving import batching
from zoo.serving.counts import Counts
from zoo.serving.memory import EVERY, FreeMemory
from zoo.serving.store import AdapterStore
from zoo.serving.ticket import Ticket
from zoo.serving.turns import PART, PASSES, Shares, in_turn
from zoo.serving.work import CancelledError, Done, Limits, Piece, QueueFullError, ServingError, StoppedError, Work
from zoo.torch_state.modes import evaluating

if TYPE_CHECKING:
    from zoo.model import Model

log = logging.getLogger(__name__)


class Runtime:
    """Serves a model to many callers at once. Use it in a `with` block, or `close` it.

    A thread of its own works with the model, which nobody else may change meanwhile. A request's adapter is one that
    the model has, or one of `adapters`; None is the base, without the model's active adapters.

    Args:
        model: the model.
        adapters: name → folder or Hub reference of a saved adapter, loaded when it is first used.
        limits: what it takes at most.

    Attributes:
        store: the adapters, for others that use the model meanwhile.

    Raises:
        AdapterError: an adapter's name is not valid.
    """

    def __init__(self, model: Model, adapters: Mapping[str, str] | None = None, limits: Limits = Limits()) -> None:  # noqa: B008 - immutable
        self.model, self.limits = model, limits
        self._resident = frozenset(model.adapters)  # they take no room of those that come and go
        self.store = AdapterStore(model, adapters or {}, limits.adapters)
        self._engine = hooks.engine(model, limits.batch)
        self._each = frozenset(option.name for option in hooks.options_of(model) or () if option.each)
        self._preparing = threading.Lock()  # tokenizers are not made for several threads
        self._prepared: dict[Ticket, Prepared] = {}  # of waiting and running requests that the engine works on
        self._talking: dict[Ticket, int] = {}  # those in the engine, each with its number of texts; the worker's own
        self._queue: list[Ticket] = []
        self._running: set[Ticket] = set()
        self._passed: Counter[Ticket] = Counter()
        self._shares = Shares()
        self._counts = Counts()
        self._free = FreeMemory()
        self._wake = threading.Event()  # set when a request that could not begin may begin now
        self.store.listen(self._wake.set)
        self._accepts, self._closed = True, False
        # Nothing of a ticket is called with this lock held: a ticket calls `_note_end` with its own.
        self._changed = threading.Condition()
        self._threads = [
            threading.Thread(target=target, name=f"zoo-serving-{target.__name__.strip('_')}", daemon=True)
            for target in (self._work, self._watch)
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # For callers, in any thread

    def names(self) -> list[str]:
        """Return the names of all adapters, in memory or not."""
        return self.store.names

    def submit(self, work: Work) -> Ticket:
        """Take a request into the queue.

        Raises:
            QueueFullError: as many wait as may.
            StoppedError: no more requests are taken.
            UnknownNameError: there is no adapter of this name.
            ZooError: the request cannot be.
        """
        self.store.check(work.adapter)
        if work.n > self.limits.samples:
            raise ServingError(f"expected at most {self.limits.samples} samples in one request, got {work.n}")
        request = hooks.declared(self.model, SampleRequest(work.n, work.seed, work.options))
        engine = self._engine
        prepared = None
        if engine is not None:
            with self._preparing:
                prepared = engine.prepare(request, work.stop)
        ticket = Ticket(work, self.limits.seconds, self._note_end)
        with self._changed:
            if not self._accepts:
                raise StoppedError("the server stops and takes no more requests: ask another one, or later")
            if len(self._queue) >= self.limits.queue:
                raise QueueFullError(f"{len(self._queue)} requests wait already: ask again later")
            ticket.want = self.store.want(work.adapter)
            self._queue.append(ticket)
            self._wake.set()
            if prepared is not None:
                self._prepared[ticket] = prepared
            self._changed.notify_all()
        return ticket

    def works(self) -> bool:
        """Return whether the thread that works with the model does so."""
        return self._threads[0].is_alive()

    def facts(self) -> dict[str, Any]:
        """Return what is going on, and what was done since the beginning.

        "queued", "running": requests; "adapters": names in memory; counters "finished", "failed", "cancelled"
        (requests), "samples", "tokens", "batches", "evictions"; "batch": mean samples of a batch; "seconds".
        """
        with self._changed:
            facts = {"queued": len(self._queue), "running": len(self._running), "adapters": list(self.store.loaded)}
            return facts | {"evictions": self.store.evictions} | self._counts.facts()

    def drain(self, seconds: float | None = None) -> bool:
        """Take no more requests, and wait until all that were taken have ended.

        Args:
            seconds: how long to wait at most; None waits for all.

        Returns:
            Whether all have ended.
        """
        with self._changed:
            self._accepts = False
            self._changed.notify_all()
            return self._changed.wait_for(lambda: not self._queue and not self._running, seconds)

    def close(self) -> None:
        """Cancel what has not ended, stop the thread, and remove the adapters that were loaded."""
        with self._changed:
            self._accepts, self._closed = False, True
            left = [*self._queue, *self._running]
            self._wake.set()
            self._changed.notify_all()
        for ticket in left:
            ticket.end(CancelledError("the server has stopped"))
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    def _note_end(self, ticket: Ticket) -> None:
        """Count the end of a ticket, in whatever thread it ends."""
        with self._changed:
            self._counts.ended(ticket.last)
            if ticket in self._queue:
                self._queue.remove(ticket)
                self._prepared.pop(ticket, None)
                self.store.end(ticket.want)
            self._wake.set()
            self._passed.pop(ticket, None)
            self._changed.notify_all()

    # The threads

    def _watch(self) -> None:
        """End requests that take too long."""
        while True:
            with self._changed:
                if self._closed:
                    return
                now = time.monotonic()
                waiting = [one for one in (*self._queue, *self._running) if not one.ended]
                late = [one for one in waiting if one.deadline <= now]
                if not late:
                    self._changed.wait(min((one.deadline - now for one in waiting), default=None))
            for ticket in late:
                ticket.expire()

    def _work(self) -> None:
        """Work on the requests until the runtime is closed."""
        while True:
            with self._changed:
                quiet = not self._changed.wait_for(
                    lambda: self._queue or self._closed, EVERY if self._free.due else None
                )
                if self._closed:
                    break
            if quiet:
                self._free.give_back()
                continue
            with self.model.caching() if self._engine is not None else nullcontext():
                while not self._closed and (self._queue or self._talking):
                    try:
                        self._turn()
                        self._free.worked()
                    except Exception as error:
                        log.exception("the server failed: what runs ends, and it goes on")
                        for ticket in tuple(self._running):
                            ticket.end(batching.failure(error))
        for ticket in tuple(self._talking):
            self._forget(ticket)
        self._engine = None  # it knows adapters that go now
        self.store.close()

    def _turn(self) -> None:
        """Begin with what has room, draw one batch, add a token to every text; or wait until something can begin."""
        self._wake.clear()
        for ticket in [one for one in self._talking if one.ended]:
            self._forget(ticket)
        if not self._talking:
            self._shares.no_texts()
        batch = self._begin()
        if batch:
            with self._shares.batch():
                self._draw(batch)
        if self._talking:
            with self._shares.step():
                self._step()
        elif not batch:  # adapters are read, or others than this thread use all that there is room for
            self._wake.wait()

    def _begin(self) -> list[Ticket]:
        """Start requests as `in_turn` orders them; returns those that are drawn together as a batch.

        A request that finds no room for its texts holds up those behind it that need such room too. One whose adapter
        finds no place is passed by others, then is the first, and holds up those that could keep places from it.
        """
        with self._changed:
            waiting = in_turn(self._queue, self._running)
        waiting.sort(key=lambda ticket: self._passed[ticket] < PASSES)
        batch: list[Ticket] = []
        kind: Hashable = None
        texts_fit, places_free = True, True
        blocked: list[Ticket] = []
        for ticket in waiting:
            prepared = None if self._engine is None else self._prepared.get(ticket)
            takes_place = ticket.work.adapter is not None and ticket.work.adapter not in self._resident
            if takes_place and not places_free:
                continue
            if prepared is not None:
                texts_fit = texts_fit and sum(self._talking.values()) + prepared.rows <= self.limits.batch
                if not texts_fit:
                    continue
            elif not self._may_draw(ticket, batch, kind):
                continue
            if not self._start(ticket):
                if not ticket.ended and ticket.want.no_room:  # not while its adapter is read
                    blocked.append(ticket)
                    places_free = places_free and self._passed[ticket] < PASSES
                continue
            self._passed.pop(ticket, None)
            if takes_place:
                self._passed.update(blocked)
            if prepared is None:
                batch.append(ticket)
                kind = batching.alike(ticket.work, self._each)
            elif self._engine is not None:
                self._engine.admit(ticket, prepared, ticket.work.adapter)
                self._talking[ticket] = prepared.rows
        return batch

    def _may_draw(self, ticket: Ticket, batch: list[Ticket], kind: Hashable) -> bool:
        """Return whether a request that is drawn as a whole begins now, in the batch as far as there is one."""
        if not batch:
            return not (self._talking and self._shares.texts_first)
        most = max(1, self.limits.batch // PART) if self._talking else self.limits.batch
        key = batching.alike(ticket.work, self._each)
        return key is not None and key == kind and len(batch) < most

    def _start(self, ticket: Ticket) -> bool:
        """Move a request from the queue to the running ones, with its adapter; returns False if it has to wait."""
        try:
            if not self.store.lease(ticket.want):
                return False
        except ZooError as error:
            ticket.end(error)
            return False
        with self._changed:
            if ticket in self._queue:
                self._queue.remove(ticket)
                self._running.add(ticket)
                return True
        self.store.end(ticket.want)
        return False

    def _draw(self, batch: list[Ticket]) -> None:
        self._count(sum(ticket.work.n for ticket in batch))
        try:
            batching.draw(self.model, batch, self._each)
        except Exception as error:
            log.exception("a batch failed")
            for ticket in batch:
                ticket.end(batching.failure(error))
        for ticket in batch:
            self._finish(ticket)

    def _step(self) -> None:
        assert self._engine is not None
        self._count(sum(self._talking.values()))
        try:
            with torch.no_grad(), evaluating(self.model.module):
                events = list(self._engine.step())
        except Exception as error:
            log.exception("a step failed")
            for ticket in tuple(self._talking):
                ticket.end(error if isinstance(error, ZooError) else batching.failure(error))
                self._finish(ticket)
            self._engine = hooks.engine(self.model, self.limits.batch)  # whatever was left in the old one
            return
        for event in events:
            ticket = cast(Ticket, event.key)
            if isinstance(event, Ended):
                ticket.end(Done(event.samples, event.reasons, event.usage, event.texts))
                self._finish(ticket)
            elif ticket.work.stream:
                ticket.say(Piece(event.text, event.index))

    def _count(self, samples: int) -> None:
        with self._changed:
            self._counts.batch(samples)

    def _forget(self, ticket: Ticket) -> None:
        """Take a request that was cancelled, or took too long, from the engine."""
        if self._engine is not None:
            self._engine.drop(ticket)
        self._finish(ticket)

    def _finish(self, ticket: Ticket) -> None:
        self._talking.pop(ticket, None)
        self.store.end(ticket.want)
        with self._changed:
            self._prepared.pop(ticket, None)
            self._running.discard(ticket)
            self._changed.notify_all()
