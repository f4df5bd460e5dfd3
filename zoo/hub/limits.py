"""Bound what requests to the Hub may cost: seconds, bytes, and how many answers there are.

The client itself waits as long as an answer's Retry-After says, gives most requests no timeout, and reads answers of
any length. In a `bounded` block two hooks of the session that it shares see to that: an answer of a busy Hub is raised
at once, so that only `zoo.hub.trouble` waits, and a body that exceeds its bound is not read on. The token goes to the
Hub alone. Requests of other threads and other libraries pass as they are.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

ANSWER = 64 * 2**20  # bytes of an answer that is no file's content: a listing of some 200,000 files
ANSWERS = 1000  # to one call of the client, which follows the pages of a listing
UNANSWERED = 2  # requests without an answer, after which the client does not try again
SECONDS = 60.0  # for one call of the client that does not transfer a file
PASSING = (408, 425, 429, 500, 502, 503, 504)
TIMEOUTS = {"connect": 10.0, "read": 10.0, "write": 60.0, "pool": 30.0}  # seconds without progress
COMMITTING = 30.0  # the same, for an answer to what was sent


class UnusableAnswerError(Exception):
    """An answer of the Hub is damaged, or exceeds a bound."""


class SilentHubError(UnusableAnswerError):
    """The Hub did not answer, several times."""


@dataclass
class _Bound:
    bytes: int
    until: float | None
    answers: int = ANSWERS
    unanswered: int = 0


_lock = threading.Lock()
_active: ContextVar[_Bound | None] = ContextVar("zoo_hub_bound", default=None)


@contextmanager
def bounded(most: int = ANSWER, seconds: float | None = SECONDS) -> Iterator[None]:
    """Bound the client's requests that this thread makes in the block.

    Args:
        most: bytes of one answer's body.
        seconds: until when answers may still come; None for files, whose time is not known.

    Raises:
        UnusableAnswerError: a bound is exceeded.
    """
    from huggingface_hub import get_session

    hooks = get_session().event_hooks
    with _lock:
        for kind, hook in (("request", _before), ("response", _after)):
            if hook not in hooks[kind]:
                hooks[kind].append(hook)
    token = _active.set(_Bound(most, None if seconds is None else time.monotonic() + seconds))
    try:
        yield
    finally:
        _active.reset(token)


def _before(request: Any) -> None:
    bound = _active.get()
    if bound is not None:
        if bound.unanswered >= UNANSWERED:
            raise SilentHubError(
                "the connection to the Hub broke, or it does not answer; check the network and try again"
            )
        bound.unanswered += 1
        if "Authorization" in request.headers and _origin(str(request.url)) not in _hosts():
            del request.headers["Authorization"]  # the client sends it to whatever page an answer names as the next
        given = request.extensions.get("timeout") or {}
        usual = TIMEOUTS if bound.until is not None else {**TIMEOUTS, "read": COMMITTING}
        limits = {kind: given.get(kind) or most for kind, most in usual.items()}
        request.extensions = {**request.extensions, "timeout": limits}


def _hosts() -> set[tuple[str, str, int | None]]:
    """Return the origins that the user's token is for."""
    from huggingface_hub import constants

    return {_origin(url) for url in (constants.ENDPOINT, "https://huggingface.co", "https://hf.co")}


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _after(response: Any) -> None:
    from huggingface_hub.utils import hf_raise_for_status

    bound = _active.get()
    if bound is None:
        return
    bound.answers, bound.unanswered = bound.answers - 1, 0
    if bound.answers < 0:
        raise UnusableAnswerError(f"the Hub's answer has no end: more than {ANSWERS:,} parts")
    for name in ("ETag", "X-Linked-Etag", "X-Repo-Commit"):  # the client makes paths of them
        value = response.headers.get(name, "").removeprefix("W/").strip('"')
        if not re.fullmatch(r"[^/\\\0]{0,200}", value) or value in (".", ".."):
            raise UnusableAnswerError(f"the Hub's answer has an impossible {name} ({value!r:.80}); try again")
    response.stream = _counted(sys.modules[type(response).__module__.partition(".")[0]].SyncByteStream)(
        response.stream, bound
    )
    if response.status_code in PASSING:
        response.read()
        hf_raise_for_status(response)


@lru_cache
def _counted(base: Any) -> Any:
    """Return a class of body streams for the HTTP library that the client uses, which has two names."""

    class Counted(base):
        def __init__(self, stream: Any, bound: _Bound) -> None:
            self.stream, self.bound = stream, bound

        def __iter__(self) -> Iterator[bytes]:
            left = self.bound.bytes
            for chunk in self.stream:
                left -= len(chunk)
                if left < 0:
                    raise UnusableAnswerError(f"the Hub's answer is longer than {self.bound.bytes:,} bytes")
                if self.bound.until is not None and time.monotonic() > self.bound.until:
                    raise UnusableAnswerError(f"the Hub's answer took more than {SECONDS:.0f} seconds; try again")
                yield chunk

        def close(self) -> None:
            self.stream.close()

    return Counted
