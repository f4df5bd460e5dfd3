"""`/v1/embeddings`: vectors of texts, for architectures that have the hook `embed`."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from zoo.serving.http import answers
from zoo.serving.http.bodies import HARMLESS
from zoo.serving.http.errors import Refusal, as_refusal, no_ability
from zoo.serving.http.reading import BoundedRoute
from zoo.serving.http.service import Service
from zoo.serving.work import CancelledError, TimeLimitError

if TYPE_CHECKING:
    from torch import Tensor


class EmbeddingsBody(BaseModel):
    """The arguments of `/v1/embeddings`."""

    model_config = ConfigDict(extra="allow", strict=True, protected_namespaces=())
    model: str | None = Field(None, description="The base's name or an adapter's; by default the base.")
    input: str | list[str] = Field(description="The text, or several.")
    encoding_format: Literal["float", "base64"] = "float"

    def texts(self, most: int) -> list[str]:
        """Return the texts.

        Raises:
            Refusal: there is none, an empty one, or there are too many; or an argument would be ignored.
        """
        for name, value in (self.model_extra or {}).items():
            if name not in HARMLESS and value is not None:
                raise Refusal(400, f"{name}: it would be ignored: leave it out", param=name, code="unsupported")
        found: Sequence[str] = [self.input] if isinstance(self.input, str) else self.input
        if not 0 < len(found) <= most or not all(text.strip() for text in found):
            message = f"input: expected 1 to {most} texts, none empty, got {len(found)}"
            raise Refusal(400, message, param="input", code="invalid_value")
        return list(found)


def router(service: Service) -> APIRouter:
    """Return the route."""
    routes = APIRouter(route_class=BoundedRoute)

    @routes.post("/v1/embeddings", response_model=None)
    async def embeddings(body: EmbeddingsBody, request: Request) -> Response:
        """Return a vector of length 1 for each text."""
        if not service.abilities.embeds:
            raise no_ability("has no vectors of texts", service.abilities.name)
        texts = body.texts(service.limits.samples)
        vectors = await _embedded(service, request, texts, service.adapter_of(body.model))
        found = [
            {"object": "embedding", "index": index, "embedding": vector}
            for index, vector in enumerate(_written(vectors, body.encoding_format))
        ]
        return JSONResponse({"object": "list", "model": body.model or service.abilities.name, "data": found})

    return routes


async def _embedded(service: Service, request: Request, texts: list[str], adapter: str | None) -> Tensor:
    seconds = service.limits.seconds
    try:
        future = service.embedder.submit(texts, adapter)
        async with answers.cancelled_without_client(request, future.cancel):
            return await asyncio.wait_for(asyncio.wrap_future(future), seconds)
    except TimeoutError:
        error = TimeLimitError(f"the request took longer than {seconds:g} s: ask for less, or later")
        raise as_refusal(error) from None
    except asyncio.CancelledError:
        if future.cancelled() and not asyncio.current_task().cancelling():  # type: ignore[union-attr]
            raise as_refusal(CancelledError("cancelled")) from None
        raise
    except Exception as error:
        raise as_refusal(error, adapter) from error


def _written(vectors: Tensor, encoding: str) -> list[Any]:
    from torch.nn.functional import normalize

    rows = normalize(vectors, dim=1)
    if encoding == "float":
        return rows.tolist()
    return [base64.b64encode(row.numpy().astype("<f4").tobytes()).decode() for row in rows]
