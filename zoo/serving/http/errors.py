"""What a client is told when a request fails: OpenAI's format, no traceback, no path of this machine."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from zoo.errors import AdapterError, CheckpointError, HubError, PluginError, ZooError, one_line
from zoo.serving.work import CancelledError, QueueFullError, ServingError, StoppedError, TimeLimitError

log = logging.getLogger(__name__)
RETRY = {"Retry-After": "1"}  # seconds
_LONGEST = 1000  # characters of a message


class Refusal(HTTPException):
    """An answer that is an error.

    Args:
        status: of HTTP.
        message: what was expected, found, and is to be done.
        param: the argument that it is about.
        code: a word for programs.
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, one_line(message, _LONGEST), dict(headers) if headers else None)
        self.param, self.code = param, code


def no_ability(what: str, model: str) -> Refusal:
    """Return the error of an endpoint that a model has not."""
    return Refusal(404, f"{model} {what}; GET /v1/models says what there is", code="unsupported_endpoint")


def as_refusal(error: Exception, adapter: str | None = None) -> Refusal:
    """Return an error as a client sees it; what the client cannot know or mend goes to the log.

    Args:
        error: what was raised.
        adapter: under which adapter.
    """
    if isinstance(error, Refusal):
        return error
    if isinstance(error, QueueFullError):
        return Refusal(429, str(error), code="queue_full", headers=RETRY)
    if isinstance(error, TimeLimitError):
        return Refusal(504, str(error), code="time_limit")
    if isinstance(error, CancelledError | StoppedError):
        return Refusal(503, "the request was cancelled: the server stops", code="stopping", headers=RETRY)
    if adapter is not None and isinstance(error, AdapterError | CheckpointError | HubError | OSError):
        log.warning("adapter %r: %s", adapter, one_line(error))
        message = f"adapter {adapter!r} cannot be used: the server's log says why"
        return Refusal(500, message, param="model", code="adapter_unavailable")
    ours = PluginError | CheckpointError | HubError | ServingError
    if isinstance(error, ZooError) and not isinstance(error, ours):
        return Refusal(400, str(error), code="invalid_value")
    log.error("a request failed: %s", one_line(error), exc_info=error)
    return Refusal(500, "the server failed: its log says why", code="internal_error")


def body_of(refusal: HTTPException) -> dict[str, Any]:
    """Return an error as OpenAI's clients read it."""
    kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
    usual = "server_error" if refusal.status_code >= 500 else "invalid_request_error"
    return {
        "error": {
            "message": str(refusal.detail),
            "type": kinds.get(refusal.status_code, usual),
            "param": getattr(refusal, "param", None),
            "code": getattr(refusal, "code", None),
        }
    }


def response_of(refusal: HTTPException) -> JSONResponse:
    """Return the answer for an error."""
    return JSONResponse(body_of(refusal), refusal.status_code, refusal.headers)


def install(app: FastAPI) -> None:
    """Let all errors of an application's routes be answered so."""

    async def refused(_: Request, error: Exception) -> JSONResponse:
        return response_of(error if isinstance(error, HTTPException) else as_refusal(error))

    async def invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return response_of(_invalid(error.errors()))

    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(ZooError, refused)


def _invalid(errors: Sequence[Mapping[str, Any]]) -> Refusal:
    """Return the first thing that is wrong with the arguments."""
    first = errors[0] if errors else {"loc": (), "msg": "invalid"}
    place = [str(part) for part in first["loc"] if part != "body"]
    # Of a union every branch has its errors; the branch's own name is no argument.
    param = ".".join(part for part in place if part.isidentifier() or part.isdecimal()) or None
    if first.get("type") == "extra_forbidden":
        return Refusal(400, f"no argument {param!r}, it would be ignored: leave it out", param=param, code="unknown")
    if param is None:
        message = "expected a JSON object with the header Content-Type: application/json"
        return Refusal(400, message, code="invalid_body")
    return Refusal(400, f"{param}: {first['msg']}", param=param, code="invalid_value")
