"""`/v1/sample` for every architecture and `/v1/classify` for those that say what something is."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Body, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, create_model

from zoo.errors import OutputError
from zoo.samples.files import media_type
from zoo.serving.http import answers
from zoo.serving.http.abilities import CLASSES
from zoo.serving.http.errors import Refusal, no_ability
from zoo.serving.http.options import count, schema, taken
from zoo.serving.http.reading import BoundedRoute
from zoo.serving.http.service import Service
from zoo.serving.work import Done, Work

if TYPE_CHECKING:
    from zoo.samples import Samples

JSON = "application/json"


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
        """Draw samples. With `Accept` and the type of a file of them, such as `image/png`, that file is the answer.

        One picture comes as it is, several as a grid.
        """
        done = await _drawn(service, body, request)
        if (chosen := _chosen(request.headers.get("accept", ""), done.samples)) is not None:
            content = await asyncio.to_thread(_content, done.samples, chosen)
            return Response(content, media_type=media_type(done.samples, chosen))
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


def _chosen(accept: str, samples: Samples) -> str | None:
    """Return the ending of the file that is asked for; None for JSON, where it is asked for before, or nothing is.

    Raises:
        Refusal: there is no such file of these samples.
    """
    known = {media_type(samples, suffix): suffix for suffix in reversed(samples.suffixes)}
    asked = [one.partition(";")[0].strip().lower() for one in accept.split(",") if one.strip()]
    for one in asked:
        if one in (JSON, "application/*", "*/*"):
            return None
        if one in known:
            return known[one]
    if not asked:
        return None
    have = ", ".join((JSON, *reversed(known)))
    raise Refusal(406, f"there are no such samples of kind {samples.kind!r}: ask for {have}", code="not_acceptable")


def _content(samples: Samples, suffix: str) -> bytes:
    if len(samples) == 1 and suffix == samples.suffixes[0]:
        return samples.each()[0]
    try:
        return samples.content(suffix)
    except OutputError as error:
        raise Refusal(406, str(error), code="not_acceptable") from None


def _described(samples: Samples) -> dict[str, Any]:
    """Return samples as JSON: texts, classes with their probabilities, or a file of each in base64."""
    head: dict[str, Any] = {"kind": samples.kind}
    values = samples.json()
    if values is None:
        head["format"] = media_type(samples, samples.suffixes[0])
        values = [base64.b64encode(content).decode() for content in samples.each()]
    return {**head, "samples": values, "captions": samples.captions}
