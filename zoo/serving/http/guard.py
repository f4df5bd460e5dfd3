"""What every request passes first: the token, whose page sent it, how large it is; and what is counted of it.

Plain ASGI, so that nothing stands between a stream and its client.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request

from zoo.errors import ZooError
from zoo.serving.http.errors import RETRY, Refusal, as_refusal, response_of
from zoo.serving.http.metrics import Metrics

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

OPEN = ("/health",)  # answered without a token
LOCAL = ("localhost", "127.0.0.1", "::1")
HELD = 2**30  # bytes of bodies and decoded pictures that all requests have together
_HELD = "zoo.held"


class Held:
    """Bytes that the requests in the server hold, all together at most `most`."""

    def __init__(self, most: int = HELD) -> None:
        self.most, self.now = most, 0


class Share:
    """The bytes of one request.

    Args:
        held: those of all.
    """

    def __init__(self, held: Held) -> None:
        self._held, self._own = held, 0

    def add(self, count: int) -> None:
        """Hold so many more.

        Raises:
            Refusal: all requests together would have too many.
        """
        if self._held.now + count > self._held.most:
            raise Refusal(503, "the server holds too many large requests: ask again later", code="busy", headers=RETRY)
        self._held.now += count
        self._own += count

    def release(self) -> None:
        """Hold none any more."""
        self._held.now -= self._own
        self._own = 0


def hold(request: Request, count: int) -> None:
    """Count bytes that a request holds until it is answered."""
    share = request.scope.get(_HELD)
    if isinstance(share, Share):
        share.add(count)


def check_token(token: str) -> str:
    """Return a token without the space around it.

    Raises:
        ZooError: it is too short, or a header cannot hold it.
    """
    token = token.strip()
    if len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token:
        raise ZooError(
            f"expected a token of at least 16 letters, digits and signs, got one of {len(token)}: make one with "
            'python -c "import secrets; print(secrets.token_urlsafe(32))"'
        )
    return token


class Guard:
    """Refuses what should not reach the application, and counts requests by route, status and time.

    Args:
        app: the application.
        route_of: the name of a path's route.
        token: what a request must bring as `Authorization: Bearer …`; None: it must name this machine as its host,
            so that no page of a stranger's can ask through a browser here.
        body: bytes of a request's body at most.
        metrics: where requests are counted.
    """

    def __init__(
        self, app: ASGIApp, route_of: Callable[[str], str], token: str | None, body: int, metrics: Metrics
    ) -> None:
        self._app, self._route_of, self._body, self._metrics = app, route_of, body, metrics
        self._token = None if token is None else token.encode()
        self._held = Held()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.monotonic(), 0
        share = scope[_HELD] = Share(self._held)

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            headers = Headers(scope=scope)
            refusal = self._refusal(scope["path"], headers)
            if refusal is not None:
                await response_of(refusal)(scope, receive, noted)
            else:
                await self._app(scope, self._counted(receive, share), noted)
        except Exception as error:
            refusal = as_refusal(error)  # which writes it into the log
            if status:  # the answer has begun: the connection is closed in the middle of it
                raise
            await response_of(refusal)(scope, receive, noted)
        finally:
            share.release()
            # Nothing was sent: the client went away before.
            self._metrics.answered(self._route_of(scope["path"]), status or 499, time.monotonic() - begun)

    def _refusal(self, path: str, headers: Headers) -> Refusal | None:
        if self._token is None:
            host = urlsplit(f"//{headers.get('host', '')}").hostname if _is_host(headers.get("host", "")) else None
            if host not in LOCAL:
                message = f"expected a host of {', '.join(LOCAL)}: this server has no token and answers this machine"
                return Refusal(403, message, code="wrong_host")
        elif path not in OPEN and not self._is_right(headers.get("authorization", "")):
            message = "expected the header Authorization: Bearer TOKEN with this server's token"
            return Refusal(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 18 or int(length) > self._body:
            return self._too_large()
        return None

    def _is_right(self, given: str) -> bool:
        kind, _, token = given.partition(" ")
        # Compared also where the kind is wrong, and in a time that says nothing of the token.
        right = hmac.compare_digest(token.strip().encode(errors="surrogateescape"), self._token or b"")
        return right and kind.lower() == "bearer"

    def _too_large(self) -> Refusal:
        message = f"expected a body of at most {self._body:,} bytes, got more"
        return Refusal(413, message, code="body_too_large", headers={"Connection": "close"})

    def _counted(self, receive: Receive, share: Share) -> Receive:
        count = 0

        async def received() -> Message:
            nonlocal count
            message = await receive()
            if message["type"] == "http.request":
                size = len(message.get("body", b""))
                count += size
                if count > self._body:  # whatever its header said
                    raise self._too_large()
                share.add(size)
            return message

        return received


def _is_host(text: str) -> bool:
    try:
        urlsplit(f"//{text}").port  # noqa: B018 — a property that checks
    except ValueError:
        return False
    return bool(text) and not set(text) & set("/@?#\\ ")
