"""The body of a request as JSON, within zoo's bounds and within time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from zoo.bounded.json_text import parse_json
from zoo.errors import ZooError
from zoo.serving.http.errors import Refusal

SECONDS = 60.0  # until a body is there
VALUES = 100_000  # in one body


class BoundedRequest(Request):
    """A request whose body comes in time, and whose JSON is parsed within zoo's bounds."""

    async def body(self) -> bytes:
        """Return the whole body.

        Raises:
            Refusal: it did not come in time.
        """
        try:
            async with asyncio.timeout(SECONDS):
                return await super().body()
        except TimeoutError:
            raise Refusal(408, f"expected the body within {SECONDS:g} seconds", code="slow_body") from None
        except ClientDisconnect:  # nobody reads the answer
            raise Refusal(400, "the client went away", code="gone") from None

    async def json(self) -> Any:
        """Return what the body stands for.

        Raises:
            Refusal: it is no JSON, or beyond the bounds.
        """
        try:
            return parse_json(await self.body(), "the body", values=VALUES, strict=True)
        except ZooError as error:
            raise Refusal(400, str(error), code="invalid_json") from None


class BoundedRoute(APIRoute):
    """A route whose requests are read so."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of this route's requests."""
        handler = super().get_route_handler()

        async def bounded(request: Request) -> Response:
            return await handler(BoundedRequest(request.scope, request.receive))

        return bounded
