"""Vectors of texts beside a `Runtime`, which draws samples: a thread of their own, under the same adapters."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from zoo.adapters.mixed_batch import choices, switching
from zoo.plugin import hooks
from zoo.serving.store import AdapterStore
from zoo.serving.work import Limits, QueueFullError, StoppedError

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.model import Model

_OWN = "_embeddings_"  # before the names of the adapters here: the runtime loads and evicts its own


class Embedder:
    """Embeds texts, one request after the other; `close` it.

    The model's active adapters do not change, so that a runtime can draw from it meanwhile.

    Args:
        model: the model.
        places: name → folder or Hub reference of an adapter, loaded when it is first used.
        limits: requests that wait and adapters in memory, at most.
    """

    def __init__(self, model: Model, places: Mapping[str, str], limits: Limits) -> None:
        self._model, self._limits = model, limits
        self._own = tuple(model.adapters)
        self._store = AdapterStore(model, {_OWN + name: place for name, place in places.items()}, limits.adapters)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="zoo-embedding")
        self._lock = threading.Lock()
        self._waiting, self._closed = 0, False

    def submit(self, texts: Sequence[str], adapter: str | None) -> Future[Tensor]:
        """Return what will hold float32 [n, d]: a vector of each of n texts.

        Raises:
            QueueFullError: as many requests wait as may.
            StoppedError: no more requests are taken.
        """
        with self._lock:
            if self._closed:
                raise StoppedError("the server stops and takes no more requests: ask another one, or later")
            if self._waiting > self._limits.queue:
                raise QueueFullError(f"{self._waiting} requests wait already: ask again later")
            self._waiting += 1
            future = self._pool.submit(self._embed, list(texts), adapter)
        future.add_done_callback(self._ended)
        return future

    def close(self) -> None:
        """Cancel what waits, wait for what runs, and remove the adapters that were loaded."""
        with self._lock:
            self._closed = True
        self._pool.shutdown(cancel_futures=True)
        self._store.clear()

    def _ended(self, _: Future[Tensor]) -> None:
        with self._lock:
            self._waiting -= 1

    def _embed(self, texts: list[str], adapter: str | None) -> Tensor:
        name = adapter if adapter is None or adapter in self._own else _OWN + adapter
        self._store.lease(name)  # there is room: one request at a time has one adapter
        try:
            adapter_set = self._model.adapter_set
            with switching(adapter_set) as switch, switch.chosen(choices(adapter_set, [name])[0]):
                return hooks.embed(self._model, texts)
        finally:
            self._store.give_back(name)
