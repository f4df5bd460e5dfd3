"""Listen with uvicorn, until a signal: then take no more, finish what was taken, and end."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from zoo.bounded.regular import open_regular
from zoo.errors import ZooError, one_line
from zoo.serving.http.guard import check_token

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from zoo.serving.runtime import Runtime
    from zoo.serving.work import Limits

TOKEN = "ZOO_TOKEN"  # of the environment
_KEEP_ALIVE = 15  # seconds that an idle connection stays open
_SPARE = 64  # connections beside those of requests: for /health, /metrics and idle ones
_LAST_WORDS = 3  # seconds in which streams whose time is over can say so
_FORCED = 2  # signals after which running requests are cancelled


def given_token(file: Path | None) -> str | None:
    """Return the token that requests must bring: the content of a file, or ZOO_TOKEN of the environment.

    Raises:
        ZooError: both are given, the file cannot be read, others may read it, or it holds no token.
    """
    variable = os.environ.get(TOKEN)
    if file is None:
        return None if variable is None else check_token(variable)
    if variable is not None:
        raise ZooError(f"expected --token-file or {TOKEN} in the environment, got both: choose one")
    try:
        with open_regular(file) as opened:
            mode = os.fstat(opened.fileno()).st_mode
            content = opened.read(4097).decode("ascii")
    except (OSError, ValueError) as error:
        raise ZooError(f"--token-file {file}: expected a file with a token ({one_line(error, 200)})") from None
    if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO) & ~stat.S_IRGRP:
        raise ZooError(f"--token-file {file}: others may read it; make it yours alone, chmod 600 {file}")
    return check_token(content)


def listen(host: str, port: int, token: str | None) -> socket.socket:
    """Return a socket that listens; port 0: at one that is free.

    Raises:
        ZooError: it listens elsewhere than on this machine and there is no token, or it cannot listen there.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        local = all(ipaddress.ip_address(str(one[4][0]).partition("%")[0]).is_loopback for one in found)
    except (OSError, ValueError, UnicodeError) as error:
        raise ZooError(f"cannot listen on {host!r}: {one_line(error, 200)}") from None
    if not local and token is None:
        raise ZooError(
            f"listening on {host} lets other machines ask, which needs a token: put one of at least 16 signs into a "
            f"file and give --token-file FILE, or set {TOKEN}; or listen on this machine alone, --host 127.0.0.1"
        )
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # the head and the body of an answer are two writes
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(128)
    except OSError as error:
        made.close()
        raise ZooError(f"cannot listen on {host} port {port}: {one_line(error, 200)}; choose another --port") from None
    return made


def address_of(listening: socket.socket) -> str:
    """Return where a socket listens, as a URL."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(
    runtime: Runtime,
    listening: socket.socket,
    token: str | None,
    grace: float,
    ready: Callable[[], None],
) -> None:
    """Answer requests until SIGTERM or SIGINT, then finish the running ones and return. A second signal cancels them.

    Args:
        runtime: serves the model; it is closed at the end.
        listening: the socket.
        token: what requests must bring; None: none.
        grace: seconds that running requests may take to finish.
        ready: called when requests are answered.
    """
    from zoo.serving.http.app import app  # with torch, which the front of several replicas has no need of

    try:
        Server(app(runtime, token=token), runtime.limits, grace, ready).run(sockets=[listening])
        runtime.drain(0)
    finally:
        runtime.close()


class Server(uvicorn.Server):
    """A server of one application.

    Args:
        served: the application; its `state.service.draining` is set at the end.
        limits: how many connections there are.
        grace: seconds that running requests may take to finish at the end.
        ready: called when requests are answered.
    """

    def __init__(self, served: Starlette, limits: Limits, grace: float, ready: Callable[[], None]) -> None:
        config = uvicorn.Config(
            served,
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=max(1, round(grace)) + _LAST_WORDS,
            limit_concurrency=limits.queue + limits.batch + _SPARE,
        )
        super().__init__(config)
        self._served, self._grace, self._ready, self._signals = served, grace, ready, 0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer."""
        await super().startup(sockets=sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections, and wait for those that there are; what takes longer is told so, and ends."""
        self._served.state.service.draining = True
        ending = asyncio.create_task(self._end_late())
        try:
            await super().shutdown(sockets=sockets)
        finally:
            ending.cancel()

    async def _end_late(self) -> None:
        await asyncio.sleep(self._grace)
        await asyncio.to_thread(self._served.state.service.runtime.close)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop; not by the signal itself, which uvicorn would raise again at the end."""
        self._signals += 1
        self.should_exit = True
        self.force_exit = self._signals >= _FORCED
