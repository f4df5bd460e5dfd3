"""Vectors of texts beside a `Runtime`, which draws samples: a thread of their own, under the same adapters."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zoo.adapters.mixed_batch import choices, switching
from zoo.plugin import hooks
from zoo.serving.store import AdapterStore
from zoo.serving.want import Want
from zoo.serving.work import Limits, QueueFullError, StoppedError

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.model import Model


@dataclass(eq=False)
class _Job:
    texts: list[str]
    want: Want
    future: Future[Tensor]


class Embedder:
    """Embeds texts, one request after the other; `close` it.

    The model's active adapters do not change, so that a runtime can draw from it meanwhile. A request whose adapter is
    still read is passed by others.

    Args:
        model: the model.
        store: its adapters, which the runtime uses too.
        limits: requests that wait, at most.
    """

    def __init__(self, model: Model, store: AdapterStore, limits: Limits) -> None:
        self._model, self._store, self._limits = model, store, limits
        self._lock = threading.Lock()
        self._jobs: list[_Job] = []
        self._closed = False
        self._wake = threading.Event()
        store.listen(self._wake.set)
        self._thread = threading.Thread(target=self._work, name="zoo-embedding", daemon=True)
        self._thread.start()

    def submit(self, texts: Sequence[str], adapter: str | None) -> Future[Tensor]:
        """Return what will hold float32 [n, d]: a vector of each of n texts.

        Raises:
            QueueFullError: as many requests wait as may.
            StoppedError: no more requests are taken.
            UnknownNameError: there is no adapter of this name.
        """
        with self._lock:
            if self._closed:
                raise StoppedError("the server stops and takes no more requests: ask another one, or later")
            if len(self._jobs) > self._limits.queue:
                raise QueueFullError(f"{len(self._jobs)} requests wait already: ask again later")
            job = _Job(list(texts), self._store.want(adapter), Future())
            self._jobs.append(job)
        job.future.add_done_callback(lambda _: self._end(job))
        self._wake.set()
        return job.future

    def close(self) -> None:
        """Cancel what waits, and wait for what runs."""
        with self._lock:
            self._closed = True
            left = list(self._jobs)
        for job in left:
            job.future.cancel()
        self._wake.set()
        self._thread.join()

    def _end(self, job: _Job) -> None:
        self._store.end(job.want)
        with self._lock:
            if job in self._jobs:
                self._jobs.remove(job)

    def _work(self) -> None:
        while not self._closed:
            self._wake.wait()
            self._wake.clear()
            with self._lock:
                waiting = list(self._jobs)
            for job in waiting:
                self._try(job)

    def _try(self, job: _Job) -> None:
        """Do a job if its adapter is there."""
        try:
            if not self._store.lease(job.want) or not job.future.set_running_or_notify_cancel():
                return
        except Exception as error:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(error)
            return
        try:
            found = self._embed(job)
        except Exception as error:
            job.future.set_exception(error)
        else:
            job.future.set_result(found)

    def _embed(self, job: _Job) -> Tensor:
        adapter_set = self._model.adapter_set
        with switching(adapter_set) as switch, switch.chosen(choices(adapter_set, [job.want.name])[0]):
            return hooks.embed(self._model, job.texts)
