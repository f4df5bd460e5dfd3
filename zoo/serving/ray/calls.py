"""A request on its way from the front to a replica. Imports no ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import Scope

# The replica is asked by nobody but the front, which has looked at these.
_LOOKED_AT = (b"authorization", b"host", b"content-length", b"transfer-encoding")


@dataclass(frozen=True)
class Call:
    """One request.

    Attributes:
        method: of HTTP.
        path: decoded.
        query: what follows the question mark.
        headers: names in small letters, and values.
        body: the whole of it.
    """

    method: str
    path: str
    query: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def scope(self) -> Scope:
        """Return the request as an ASGI application takes it."""
        own = ((b"host", b"localhost"), (b"content-length", str(len(self.body)).encode()))
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": self.method,
            "scheme": "http",
            "path": self.path,
            "raw_path": self.path.encode(),
            "root_path": "",
            "query_string": self.query,
            "headers": [*self.headers, *own],
            "client": None,
            "server": None,
        }


def call_of(scope: Scope, body: bytes) -> Call:
    """Return a request that has come in whole."""
    headers = tuple((name, value) for name, value in scope["headers"] if name not in _LOOKED_AT)
    return Call(scope["method"], scope["path"], scope["query_string"], headers, body)
