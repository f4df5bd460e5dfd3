"""Waiting requests that can be drawn together, for architectures that draw a whole batch at once."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zoo.errors import ZooError, one_line
from zoo.serving.work import Done, Piece, ServingError

if TYPE_CHECKING:
    from zoo.model import Model
    from zoo.samples import Samples
    from zoo.serving.ticket import Ticket


def alike(options: Mapping[str, Any]) -> Hashable:
    """Return a key that is equal for equal options; one of a kind where they hold what cannot be compared quickly."""
    return tuple(sorted((name, _frozen(value)) for name, value in options.items()))


def _frozen(value: Any) -> Hashable:
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return type(value).__name__, value
    if isinstance(value, list | tuple):
        return "list", tuple(map(_frozen, value))
    if isinstance(value, Mapping):
        return "dict", tuple(sorted((str(name), _frozen(one)) for name, one in value.items()))
    return "object", id(value)


def draw(model: Model, tickets: Sequence[Ticket]) -> None:
    """Draw the samples of requests with equal options and one adapter, and end their tickets."""
    adapter = tickets[0].work.adapter
    before = dict(model.active_weights)
    wanted = {} if adapter is None else {adapter: 1.0}
    try:
        if wanted != before:
            model.activate(*wanted)
        for ticket in tickets:
            if not ticket.ended:
                _draw_one(model, ticket)
    finally:
        if wanted != before:
            model.activate(*before, weights=tuple(before.values()))


def _draw_one(model: Model, ticket: Ticket) -> None:
    work = ticket.work
    try:
        samples = model.sample(work.n, seed=work.seed, **work.options)
    except ZooError as error:
        ticket.end(error)
    except Exception as error:
        ticket.end(failure(error))
    else:
        finish(ticket, samples)


def finish(ticket: Ticket, samples: Samples) -> None:
    """End a ticket with its samples: texts are cut at the request's stop texts, and said as one piece each."""
    work = ticket.work
    reasons: tuple[str, ...] = ()
    if samples.kind == "text" and work.stop:
        samples, reasons = _stopped(samples, work.stop, work.options)
    if samples.kind == "text" and work.stream:
        for index, text in enumerate(samples.data):
            ticket.say(Piece(text, index))
    ticket.end(Done(samples, reasons))


def failure(error: BaseException) -> ServingError:
    """Return the error of a request that failed otherwise than on purpose."""
    return ServingError(f"the model failed: {type(error).__name__}: {one_line(error)}")


def _stopped(samples: Samples, stop: tuple[str, ...], options: Mapping[str, Any]) -> tuple[Samples, tuple[str, ...]]:
    from zoo.samples import Samples

    prompts = [value for value in options.values() if isinstance(value, str)]
    texts, reasons = [], []
    for text in samples.data:
        first = max((len(prompt) for prompt in prompts if text.startswith(prompt)), default=0)  # stops are not in it
        found = min((at for one in stop if (at := text.find(one, first)) >= 0), default=None)
        texts.append(text if found is None else text[:found])
        reasons.append("length" if found is None else "stop")
    return Samples(texts, "text", samples.captions), tuple(reasons)
