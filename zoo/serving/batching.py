"""Waiting requests that can be drawn together, for architectures that draw a whole batch at once."""

from __future__ import annotations

import secrets
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from zoo.errors import ZooError, one_line
from zoo.serving.work import Done, Piece, ServingError, Work

if TYPE_CHECKING:
    from zoo.model import Model
    from zoo.samples import Samples
    from zoo.serving.ticket import Ticket


def alike(work: Work, each: frozenset[str]) -> Hashable:
    """Return a key that is equal for requests which one call of `model.sample` can draw; None for one drawn alone.

    Args:
        work: the request.
        each: the options that have one value for each sample.
    """
    own = {name: value for name, value in work.options.items() if name in each and value is not None}
    if work.n != 1 or any(isinstance(value, list | tuple) and len(value) != 1 for value in own.values()):
        return None  # its samples share random numbers, or are as many as its values
    shared = ((name, _frozen(value)) for name, value in work.options.items() if name not in own)
    return tuple(sorted(own)), tuple(sorted(shared, key=lambda pair: pair[0]))


def _frozen(value: Any) -> Hashable:
    """Return what is equal for equal values; of values that cannot be compared quickly, what they are one by one."""
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return type(value).__name__, value
    if isinstance(value, list | tuple):
        return "list", tuple(map(_frozen, value))
    if isinstance(value, Mapping):
        return "dict", tuple(sorted((str(name), _frozen(one)) for name, one in value.items()))
    return "object", id(value)


def draw(model: Model, tickets: Sequence[Ticket], each: frozenset[str]) -> None:
    """Draw the samples of requests that are alike, and end their tickets."""
    tickets = [ticket for ticket in tickets if not ticket.ended]
    if len(tickets) > 1:
        try:
            samples = _together(model, [ticket.work for ticket in tickets], each)
        except Exception:  # one of them is at fault, which by itself says so
            samples = None
        if samples is not None:
            for number, ticket in enumerate(tickets):
                finish(ticket, samples[number])
            return
    for ticket in tickets:
        try:
            with _under(model, ticket.work.adapter):
                samples = model.sample(ticket.work.n, seed=ticket.work.seed, **ticket.work.options)
        except ZooError as error:
            ticket.end(error)
        except Exception as error:
            ticket.end(failure(error))
        else:
            finish(ticket, samples)


def _together(model: Model, works: Sequence[Work], each: frozenset[str]) -> Samples:
    """Return the sample of each request, from its own seed and under its own adapter."""
    options = dict(works[0].options)
    for name in each & options.keys():
        if options[name] is not None:
            values = [work.options[name] for work in works]
            options[name] = [value[0] if isinstance(value, list | tuple) else value for value in values]
    seeds = [secrets.randbits(63) if work.seed is None else work.seed for work in works]
    adapters = [work.adapter for work in works]
    plain = not any(adapters) and not model.active
    return model.sample(len(works), seeds=seeds, adapters=None if plain else adapters, **options)


@contextmanager
def _under(model: Model, adapter: str | None) -> Iterator[None]:
    """Have this adapter active in the block, and no other."""
    before = dict(model.active_weights)
    wanted = {} if adapter is None else {adapter: 1.0}
    if wanted == before:
        yield
        return
    model.activate(*wanted)
    try:
        yield
    finally:
        model.activate(*before, weights=tuple(before.values()))


def finish(ticket: Ticket, samples: Samples) -> None:
    """End a ticket with its samples: texts are cut at the request's stop texts, and said as one piece each."""
    work = ticket.work
    reasons: tuple[str | None, ...] = ()
    if samples.kind == "text" and work.stop:
        samples, reasons = _stopped(samples, work.stop, work.options)
    if samples.kind == "text" and work.stream:
        for index, text in enumerate(samples.data):
            ticket.say(Piece(text, index))
    ticket.end(Done(samples, reasons))


def failure(error: BaseException) -> ServingError:
    """Return the error of a request that failed otherwise than on purpose."""
    return ServingError(f"the model failed: {type(error).__name__}: {one_line(error)}")


def _stopped(
    samples: Samples, stop: tuple[str, ...], options: Mapping[str, Any]
) -> tuple[Samples, tuple[str | None, ...]]:
    from zoo.samples import Samples

    prompts = [value for value in options.values() if isinstance(value, str)]
    texts: list[str] = []
    reasons: list[str | None] = []
    for text in samples.data:
        first = max((len(prompt) for prompt in prompts if text.startswith(prompt)), default=0)  # stops are not in it
        found = min((at for one in stop if (at := text.find(one, first)) >= 0), default=None)
        texts.append(text if found is None else text[:found])
        reasons.append(None if found is None else "stop")  # a sample does not say whether it was cut
    return Samples(texts, "text", samples.captions), tuple(reasons)
