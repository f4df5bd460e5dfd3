"""Between tickets and HTTP: await events, and cancel what nobody waits for any more."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import Request
from starlette.responses import StreamingResponse

from zoo.serving.http.errors import as_refusal
from zoo.serving.work import Done, Piece, Work

if TYPE_CHECKING:
    from zoo.serving.http.service import Service

SSE = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # proxies hand each piece on


async def result(service: Service, request: Request, work: Work) -> Done:
    """Submit a request, await its end and return it; a client that goes away cancels it.

    Raises:
        Refusal: it failed.
    """
    async with contextlib.aclosing(events(service, request, work)) as stream:
        async for event in stream:
            if isinstance(event, Done):
                return event
    raise AssertionError("a ticket ended without an end")


async def events(service: Service, request: Request, work: Work) -> AsyncGenerator[Piece | Done, None]:
    """Submit a request and yield its events; a client that goes away, or who stops reading, cancels it.

    Raises:
        Refusal: it failed.
    """
    queue: asyncio.Queue[Any] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    try:
        ticket = await asyncio.to_thread(service.runtime.submit, work)  # which may read a long prompt
    except Exception as error:
        raise as_refusal(error, work.adapter) from error
    try:

        def arrived(event: Any) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, event)

        ticket.on_event(arrived)
        async with cancelled_without_client(request, ticket.cancel):
            while True:
                event = await queue.get()
                if isinstance(event, Exception):
                    raise as_refusal(event, work.adapter) from event
                if isinstance(event, Done):
                    service.note(event)
                yield event
                if isinstance(event, Done):
                    return
    finally:
        ticket.cancel()  # does nothing to one that has ended


@asynccontextmanager
async def cancelled_without_client(request: Request, cancel: Callable[[], Any]) -> AsyncIterator[None]:
    """Call a function if the client goes away in the block. The request's body has to be read before."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        cancel()

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching


class EventStream(StreamingResponse):
    """Server-sent events, whose source is closed whatever ends the answer."""

    def __init__(self, lines: AsyncGenerator[str, None]) -> None:
        super().__init__(lines, media_type="text/event-stream", headers=SSE)
        self._lines = lines

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._lines.aclose()
