"""`/v1/sample` for every architecture and `/v1/classify` for those that say what something is."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Body, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, create_model

from zoo.serving.http import answers
from zoo.serving.http.abilities import CLASSES, IMAGE, TEXT
from zoo.serving.http.errors import Refusal, no_ability
from zoo.serving.http.options import count, schema, taken
from zoo.serving.http.reading import BoundedRoute
from zoo.serving.http.service import Service
from zoo.serving.work import Done, Work

if TYPE_CHECKING:
    from zoo.samples import Samples

PNG = "image/png"


class SampleBody(BaseModel):
    """The arguments of both endpoints, but for the options, which are the model's own."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())
    model: str | None = Field(None, description="The base's name or an adapter's; by default the base.")
    adapter: str | None = Field(None, description="An adapter's name: the same as `model`.")
    n: int = Field(1, ge=1, description="How many, of each text where several are given.")
    seed: int | None = Field(None, ge=-(2**63), lt=2**64, description="Equal seeds give equal samples.")


class ClassifyBody(SampleBody):
    """The arguments of `/v1/classify`."""

    top: int | None = Field(None, ge=1, description="How many of the likeliest classes; by default all.")


def router(service: Service) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(route_class=BoundedRoute)

    async def sample(body: Any, request: Request) -> Response:
        """Draw samples. With `Accept: image/png` pictures come as one PNG: one of them as it is, several as a grid."""
        done = await _drawn(service, body, request)
        if PNG in request.headers.get("accept", ""):
            if done.samples.kind == TEXT:
                raise Refusal(406, "these samples are texts: ask for application/json", code="not_acceptable")
            return Response(await asyncio.to_thread(_one_png, done.samples), media_type=PNG)
        said = await asyncio.to_thread(_described, done.samples)
        return JSONResponse({**service.head("samples", "smpl", _model(body)), "seed": body.seed, **said})

    async def classify(body: Any, request: Request) -> Response:
        """Say of what class something is, with the probability of each class."""
        if not service.abilities.classifies:
            raise no_ability("says of nothing what it is", service.abilities.name)
        done = await _drawn(service, body, request)
        if done.samples.kind not in CLASSES:
            raise no_ability("says of nothing what it is", service.abilities.name)
        rows = done.samples.topk(body.top or len(done.samples.labels or ()))
        names: Sequence[str | None] = done.samples.captions or [None] * len(rows)
        data = [
            {
                "index": index,
                "caption": name,
                "classes": [{"label": label, "probability": share} for label, share in row],
            }
            for index, (name, row) in enumerate(zip(names, rows, strict=True))
        ]
        head = service.head("classification", "cls", _model(body))
        return JSONResponse({**head, "kind": done.samples.kind, "data": data})

    options = schema(service.abilities)
    for path, endpoint, base in (("/v1/sample", sample, SampleBody), ("/v1/classify", classify, ClassifyBody)):
        made = create_model(f"{base.__name__}WithOptions", __base__=base, options=(options, Field(default=options())))
        endpoint.__annotations__["body"] = Annotated[made, Body()]
        routes.add_api_route(path, endpoint, methods=["POST"], response_model=None)
    return routes


def _model(body: Any) -> str | None:
    return body.adapter if body.model is None else body.model


async def _drawn(service: Service, body: Any, request: Request) -> Done:
    if body.model is not None and body.adapter is not None and body.model != body.adapter:
        raise Refusal(400, "expected model or adapter, got both", param="adapter", code="invalid_value")
    adapter = service.adapter_of(_model(body), "adapter" if body.model is None else "model")
    given = {name: getattr(body.options, name) for name in body.options.model_fields_set}
    # Before pictures are decoded, which takes memory and time.
    service.check_count(count(service.abilities, body.n, given))
    options = await asyncio.to_thread(taken, service.abilities, given, request)
    return await answers.result(service, request, Work(options, n=body.n, seed=body.seed, adapter=adapter))


def _described(samples: Samples) -> dict[str, Any]:
    """Return samples as JSON: texts, classes with their probabilities, or pictures as PNG in base64."""
    values: list[Any] | None = samples.json()
    if samples.kind == IMAGE or values is None:
        from zoo.samples import to_pictures

        values = [base64.b64encode(_png(picture)).decode() for picture in to_pictures(samples.data)]
        return {"kind": samples.kind, "format": PNG, "samples": values, "captions": samples.captions}
    return {"kind": samples.kind, "samples": values, "captions": samples.captions}


def _one_png(samples: Samples) -> bytes:
    from zoo.samples import to_pictures

    if samples.kind == IMAGE and len(samples) == 1:
        return _png(to_pictures(samples.data)[0])
    return _png(samples.image())


def _png(picture: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()
