"""The deployment of Ray Serve: one process with the model, and the application of `zoo.serving.http`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from ray import serve
from starlette.types import Message

from zoo.serving.ray.calls import Call
from zoo.serving.work import Limits, ServingError

_AHEAD = 64  # parts of an answer that wait to be sent


class Replica:
    """Answers requests as `zoo serve` does, with a model of its own.

    Args:
        name: what `zoo.load` takes.
        loading: its other arguments.
        places: adapter's name → folder or Hub reference.
        limits: what it takes at most.
    """

    def __init__(self, name: str, loading: Mapping[str, Any], places: Mapping[str, str], limits: Limits) -> None:
        import zoo
        from zoo.serving.http.app import app
        from zoo.serving.runtime import Runtime

        self._runtime = Runtime(zoo.load(name, **loading), places, limits)
        self._app = app(self._runtime)
        self._answering: set[asyncio.Task[None]] = set()

        # What Ray's router knows of a replica's adapters; the runtime's store, of the same size, has them.
        @serve.multiplexed(max_num_models_per_replica=limits.adapters)
        async def placed(adapter: str) -> str:
            return adapter

        self._placed = placed

    def paths(self) -> list[str]:
        """Return the paths of the application."""
        return list(self._app.openapi()["paths"])

    def numbers(self) -> tuple[str, str]:
        """Return the replica's name, and its metrics in Prometheus' format."""
        name = str(serve.get_replica_context().replica_id.unique_id)
        return name, self._app.state.service.metrics.text().decode()

    def check_health(self) -> None:
        """Raise `ServingError` if the model's thread has ended, so that Ray starts another replica."""
        if not self._runtime.works():
            raise ServingError("the thread that works with the model has ended")

    async def answer(self, call: Call) -> AsyncGenerator[Message, None]:
        """Yield the messages of an ASGI application, as they come; when nobody takes them, the request is cancelled."""
        adapter = serve.get_multiplexed_model_id()
        if adapter:
            await self._placed(adapter)
        parts: asyncio.Queue[Message | None] = asyncio.Queue(_AHEAD)
        gone = asyncio.Event()
        coming: list[Message] = [{"type": "http.request", "body": call.body, "more_body": False}]

        async def receive() -> Message:
            if coming:
                return coming.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            if not gone.is_set():
                await parts.put(message)

        async def run() -> None:
            try:
                await self._app(call.scope(), receive, send)
            finally:
                await parts.put(None)

        task = asyncio.create_task(run())
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)
        try:
            while (message := await parts.get()) is not None:
                yield message
            await task
        finally:
            gone.set()
            while not parts.empty():  # whoever waits to put something goes on, and sees that nobody takes it
                parts.get_nowait()

    def __del__(self) -> None:
        runtime = getattr(self, "_runtime", None)
        if runtime is not None:
            runtime.close()
