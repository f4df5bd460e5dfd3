"""The application that clients reach: it looks at a request, and hands it to a replica that has its adapter."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from ray.exceptions import RayActorError, RayError, RayTaskError, TaskCancelledError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from zoo.errors import one_line
from zoo.serving.http import metrics
from zoo.serving.http.errors import RETRY, Refusal
from zoo.serving.http.guard import Guard
from zoo.serving.http.reading import BoundedRequest
from zoo.serving.ray.calls import Call, call_of

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle
    from starlette.types import Message, Receive, Scope, Send

    from zoo.serving.work import Limits

log = logging.getLogger(__name__)
ELSEWHERE = "other"  # the route of a path that there is not
OWN = ("/health", "/metrics")
TRIES = 3  # of a request whose replica ends before it has begun to answer
_SECONDS = 5.0  # until a replica has said its numbers
_GONE = (RayActorError, DeploymentUnavailableError, ReplicaUnavailableError)
_COUNTED_HERE = ("zoo_requests", "zoo_request_seconds")  # what a replica counts of these would be counted twice


class Front:
    """Hands requests to the replicas.

    Args:
        handle: the deployment of `Replica`.
        adapters: their names.
        replicas: returns how many replicas answer.
        model: the model's name.

    Attributes:
        draining: whether no more requests are taken.
    """

    def __init__(
        self,
        handle: DeploymentHandle[Any],
        adapters: Collection[str],
        replicas: Callable[[], Awaitable[int]],
        model: str,
    ) -> None:
        self._handle, self._adapters = handle, frozenset(adapters)
        self._replicas, self._model, self._begun = replicas, model, time.monotonic()
        self.draining = False
        self.metrics = metrics.Metrics(lambda: {"seconds": time.monotonic() - self._begun})

    async def forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request with what a replica says."""
        request = BoundedRequest(scope, receive)
        call = call_of(scope, await request.body())
        adapter = await self._adapter(request, call)
        for left in reversed(range(TRIES)):
            begun = False

            async def noted(message: Message) -> None:
                nonlocal begun
                begun = True
                await send(message)

            try:
                await self._pass(call, adapter, receive, noted)
                return
            except _GONE as error:
                if begun:
                    raise  # the connection is closed in the middle of the answer
                log.warning("a replica has ended before it answered: %s", one_line(error, 200))
                if not left:
                    message = "the replica that had the request has ended: ask again"
                    raise Refusal(503, message, code="replica_ended", headers=RETRY) from None
            except BackPressureError:
                raise Refusal(
                    429, "as many requests wait as may: ask again later", code="queue_full", headers=RETRY
                ) from None

    async def _adapter(self, request: BoundedRequest, call: Call) -> str:
        """Return the adapter that a request names; "" where it names none that there is, which the replica says."""
        if not call.body:
            return ""
        try:
            asked = await request.json()
        except Refusal:
            return ""
        name = asked.get("model") if isinstance(asked, dict) else None
        return name if isinstance(name, str) and name in self._adapters else ""

    async def _pass(self, call: Call, adapter: str, receive: Receive, send: Send) -> None:
        """Send what a replica answers, until the client goes away."""
        parts = self._handle.options(stream=True, multiplexed_model_id=adapter).answer.remote(call)
        gone = asyncio.ensure_future(_gone(receive))
        try:
            while True:
                coming = asyncio.ensure_future(anext(parts, None))
                await asyncio.wait((coming, gone), return_when=asyncio.FIRST_COMPLETED)
                if not coming.done():
                    coming.cancel()
                    coming.add_done_callback(lambda one: one.cancelled() or one.exception())  # of what was cancelled
                    return
                message = coming.result()
                if message is None:
                    return
                await send(message)
        except TaskCancelledError:
            return
        except RayTaskError as error:
            raise error.cause if isinstance(error.cause, Exception) else error from None
        finally:
            gone.cancel()
            parts.cancel()

    async def health(self, _: Request) -> Response:
        """Say whether requests are taken, and by how many replicas."""
        count = await self._replicas()
        status = "draining" if self.draining else "ok" if count else "no replica"
        facts = {"status": status, "model": self._model, "replicas": count}
        return JSONResponse(facts, 200 if status == "ok" else 503)

    async def numbers(self, _: Request) -> Response:
        """Return the front's metrics, and those of each replica under its name."""
        try:
            found = await self._handle.broadcast("numbers").results_async(timeout_s=_SECONDS, return_exceptions=True)
        except (RayError, TimeoutError) as error:
            log.warning("the replicas' numbers did not come: %s", one_line(error, 200))
            found = []
        told = [one for one in found if isinstance(one, tuple)]
        return Response(_text([("", self.metrics.text().decode()), *told]), media_type=metrics.CONTENT_TYPE)


def front(made: Front, limits: Limits, token: str | None, paths: Iterable[str]) -> Starlette:
    """Return the application for any ASGI server.

    Args:
        made: what answers.
        limits: what a request may be.
        token: what a request must bring; None: it must name this machine.
        paths: those of the replicas.
    """
    known = {*paths, *OWN}
    guard = Middleware(
        Guard,
        route_of=lambda path: path if path in known else ELSEWHERE,
        token=token,
        body=limits.body,
        metrics=made.metrics,
    )
    routes = [Route(OWN[0], made.health), Route(OWN[1], made.numbers), Mount("/", made.forward)]
    app = Starlette(routes=routes, middleware=[guard])
    app.state.service = made  # whose `draining` the server sets
    return app


async def _gone(receive: Receive) -> None:
    """Return when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _text(told: Iterable[tuple[str, str]]) -> bytes:
    """Return several processes' metrics as one text, the numbers of each replica with its name; "" is the front's."""
    from prometheus_client import CollectorRegistry, generate_latest

    families: dict[str, Metric] = {}
    for replica, text in told:
        named = {"replica": replica} if replica else {}
        for family in text_string_to_metric_families(text):
            if replica and family.name in _COUNTED_HERE:
                continue
            into = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                into.add_sample(sample.name, sample.labels | named, sample.value)

    class Told:
        def collect(self) -> Iterator[Metric]:
            yield from families.values()

    registry = CollectorRegistry()
    registry.register(Told())
    return generate_latest(registry)
