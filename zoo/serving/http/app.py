"""The application: a served model's endpoints, behind the guard."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI, Response
from fastapi.responses import JSONResponse

from zoo._version import __version__
from zoo.serving.embedder import Embedder
from zoo.serving.http import embeddings, errors, metrics, samples, texts
from zoo.serving.http.abilities import abilities_of
from zoo.serving.http.errors import Refusal
from zoo.serving.http.guard import Guard
from zoo.serving.http.reading import BoundedRoute
from zoo.serving.http.service import Service

if TYPE_CHECKING:
    from zoo.serving.runtime import Runtime

ELSEWHERE = "other"  # the route of a path that there is not, as metrics count it


def app(runtime: Runtime, *, token: str | None = None) -> FastAPI:
    """Return the application of a runtime, for any ASGI server.

    Args:
        runtime: serves the model; its limits are the application's.
        token: what a request must bring as `Authorization: Bearer …`; None: requests must name this machine.
    """
    embedder = Embedder(runtime.model, runtime.store, runtime.limits)
    service = Service(
        runtime=runtime,
        embedder=embedder,
        abilities=abilities_of(runtime),
        limits=runtime.limits,
        metrics=metrics.Metrics(runtime.facts),
        begun=int(time.time()),
    )

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.draining = True
        embedder.close()

    # The pages with an interface of their own would load scripts from elsewhere.
    made = FastAPI(
        title=f"zoo serve {service.abilities.name}",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        lifespan=life,
    )
    made.state.service = service
    made.router.route_class = BoundedRoute
    errors.install(made)
    for routes in (_facts(service), texts.router(service), embeddings.router(service), samples.router(service)):
        made.include_router(routes)
    paths = set(made.openapi()["paths"])
    made.add_middleware(
        Guard,
        route_of=lambda path: path if path in paths else ELSEWHERE,
        token=token,
        body=runtime.limits.body,
        metrics=service.metrics,
    )
    return made


def _facts(service: Service) -> APIRouter:
    """Return the routes that say how the server is."""
    routes = APIRouter(route_class=BoundedRoute)

    @routes.get("/health", response_model=None)
    async def health() -> Response:
        """Say whether requests are taken."""
        if service.draining:
            return JSONResponse({"status": "draining"}, 503)
        return JSONResponse({"status": "ok", "model": service.abilities.name})

    @routes.get("/metrics", response_model=None)
    async def numbers() -> Response:
        """Return all metrics as Prometheus reads them."""
        return Response(service.metrics.text(), media_type=metrics.CONTENT_TYPE)

    @routes.get("/v1/models", response_model=None)
    async def models() -> dict[str, Any]:
        """List the base and the adapters, which a request names as its `model`."""
        return {"object": "list", "data": [_model(service, name) for name in (None, *service.runtime.names())]}

    @routes.get("/v1/models/{name:path}", response_model=None)
    async def model(name: str) -> dict[str, Any]:
        """Return the base or an adapter."""
        return _model(service, service.adapter_of(name))

    return routes


def _model(service: Service, adapter: str | None) -> dict[str, Any]:
    base = service.abilities.name
    found = {"id": adapter or base, "object": "model", "created": service.begun, "owned_by": "zoo"}
    if adapter is not None:
        return {**found, "parent": base}
    return {**found, "endpoints": service.abilities.endpoints()}


__all__ = ["Refusal", "app"]
