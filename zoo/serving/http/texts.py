"""`/v1/completions` and `/v1/chat/completions`, whole or as a stream, as OpenAI's clients read them."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from zoo.errors import ZooError
from zoo.serving.http import answers
from zoo.serving.http.bodies import ChatBody, CompletionBody, TextBody
from zoo.serving.http.errors import Refusal, as_refusal, body_of, no_ability
from zoo.serving.http.reading import BoundedRoute
from zoo.serving.http.service import Service
from zoo.serving.work import Done, Piece, Work


@dataclass(frozen=True)
class Form:
    """How one endpoint writes its answers.

    Attributes:
        whole: the kind of a whole answer.
        part: of a piece of a stream.
        prefix: of ids.
        choice: returns what a choice has of a whole text.
        delta: the same of a piece; None: the end.
        opening: what is sent of each choice before its first piece; None: nothing.
    """

    whole: str
    part: str
    prefix: str
    choice: Callable[[str], dict[str, Any]]
    delta: Callable[[str | None], dict[str, Any]]
    opening: dict[str, Any] | None = None


COMPLETION = Form(
    "text_completion",
    "text_completion",
    "cmpl",
    choice=lambda text: {"text": text},
    delta=lambda text: {"text": text or ""},
)
CHAT = Form(
    "chat.completion",
    "chat.completion.chunk",
    "chatcmpl",
    choice=lambda text: {"message": {"role": "assistant", "content": text, "refusal": None}},
    delta=lambda text: {"delta": {} if text is None else {"content": text}},
    opening={"delta": {"role": "assistant", "content": ""}},
)


def router(service: Service) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(route_class=BoundedRoute)

    @routes.post("/v1/completions", response_model=None)
    async def completions(body: CompletionBody, request: Request) -> Response:
        """Continue a text, or several."""
        name = service.abilities.continues
        if name is None:
            raise no_ability("continues no texts", service.abilities.name)
        inputs = tuple(one for one in ("prompt", "prompts", service.abilities.answers) if one)
        options = body.settings(service.abilities, inputs)
        if body.prompts:
            options[name] = body.prompts
        elif body.prompt is not None:
            raise Refusal(400, "prompt: expected at least one text", param="prompt", code="invalid_value")
        return await _answer(service, request, body, options, COMPLETION, body.prompts or [""], bool(body.echo))

    @routes.post("/v1/chat/completions", response_model=None)
    async def chat(body: ChatBody, request: Request) -> Response:
        """Answer a conversation."""
        name = service.abilities.answers
        if name is None:
            raise no_ability("answers no conversations", service.abilities.name)
        options = body.settings(service.abilities, ("prompt", "prompts", name))
        return await _answer(service, request, body, {**options, name: _conversation(body.messages)}, CHAT)

    return routes


def _conversation(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    from zoo.data.conversations import as_messages

    for number, message in enumerate(messages):
        more = message.keys() - {"role", "content", "name", "refusal", "annotations", "audio"}
        if set(message) - more and any(message[name] for name in more):
            one = sorted(more)[0]
            param = f"messages.{number}.{one}"
            raise Refusal(400, f"{param}: it is not supported: leave it out", param=param, code="unsupported")
        if message.get("role") in ("tool", "function"):
            param = f"messages.{number}.role"
            raise Refusal(400, f"{param}: tools are not supported", param=param, code="unsupported")
    try:
        return as_messages([{key: one[key] for key in ("role", "content") if key in one} for one in messages])
    except ZooError as error:
        raise Refusal(400, f"messages: {error}", param="messages", code="invalid_value") from None


async def _answer(
    service: Service,
    request: Request,
    body: TextBody,
    options: dict[str, Any],
    form: Form,
    prompts: Sequence[str] = (),
    echo: bool = False,
) -> Response:
    n = body.n or 1
    service.check_count(n * max(1, len(prompts)))
    adapter = service.adapter_of(body.model)
    work = Work(options, n=n, seed=body.seed, adapter=adapter, stop=body.stops, stream=bool(body.stream))
    begins = [prompt for prompt in prompts for _ in range(n)]  # of each choice
    if body.stream:
        lines = _lines(service, request, body, work, form, begins or [""] * n, echo)
        first = await anext(lines)  # an error before it is an error of HTTP
        return answers.EventStream(_joined(first, lines))
    done = await answers.result(service, request, work)
    choices = []
    for index, text in enumerate(_new_texts(done, begins)):
        said = begins[index] + text if echo and begins else text
        reason = done.reasons[index] if index < len(done.reasons) else None
        choices.append({"index": index, **form.choice(said), "logprobs": None, "finish_reason": reason})
    answer = {**service.head(form.whole, form.prefix, body.model), "choices": choices, **_usage(done)}
    return JSONResponse(answer)


async def _lines(
    service: Service, request: Request, body: TextBody, work: Work, form: Form, begins: Sequence[str], echo: bool
) -> AsyncGenerator[str, None]:
    """Yield the lines of a stream. What goes wrong before the first one is raised, later it is a line."""
    head = service.head(form.part, form.prefix, body.model)

    def line(choices: list[dict[str, Any]], **more: Any) -> str:
        usage = {"usage": None} if body.with_usage else {}
        return _line({**head, "choices": choices, **usage, **more})

    def choice(index: int, content: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        return {"index": index, **content, "logprobs": None, "finish_reason": reason}

    begun = False
    said: set[int] = set()
    held: dict[int, str] = {}  # first pieces that may have the prompt in them: of a model that says its texts at once
    events = answers.events(service, request, work)
    try:
        async for event in events:
            if not begun:
                begun = True
                for index, begin in enumerate(begins):
                    if form.opening is not None:
                        yield line([choice(index, form.opening)])
                    elif echo and begin:
                        yield line([choice(index, form.delta(begin))])
            if isinstance(event, Piece):
                index, text = event.index, held.pop(event.index, "") + event.text
                if index not in said and begins[index] and text.startswith(begins[index]):
                    held[index] = text
                else:
                    yield line([choice(index, form.delta(text))])
                said.add(index)
                continue
            for index, text in enumerate(_new_texts(event, begins)):
                rest = (held[index] if event.texts else text) if index in held else "" if index in said else text
                if rest:
                    yield line([choice(index, form.delta(rest))])
                reason = event.reasons[index] if index < len(event.reasons) else None
                yield line([choice(index, form.delta(None), reason)])
            if body.with_usage:
                yield line([], **_usage(event))
        yield "data: [DONE]\n\n"
    except Exception as error:
        if not begun:
            raise
        yield _line(body_of(as_refusal(error, work.adapter)))
    finally:
        await events.aclose()


async def _joined(first: str, rest: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
    try:
        yield first
        async for line in rest:
            yield line
    finally:
        await rest.aclose()


def _new_texts(done: Done, begins: Sequence[str]) -> list[str]:
    """Return what was said, without the prompts."""
    if done.texts:
        return list(done.texts)
    starts = begins if len(begins) == len(done.samples) else [""] * len(done.samples)
    return [text.removeprefix(start) for text, start in zip(done.samples, starts, strict=True)]


def _usage(done: Done) -> dict[str, Any]:
    usage = dict(done.usage)
    return {"usage": {**usage, "total_tokens": sum(usage.values())}} if usage else {}


def _line(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"
