"""One text, piece by piece: `model.stream`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from zoo.errors import ZooError
from zoo.plugin import hooks
from zoo.plugin.engines import Ended, Said

if TYPE_CHECKING:
    from zoo.plugin.contract import LoadedModel
    from zoo.plugin.engines import Engine, Prepared
    from zoo.plugin.requests import SampleRequest


def streamed(
    model: LoadedModel, request: SampleRequest, active: Mapping[str, float], stop: tuple[str, ...], cache: Any
) -> Iterator[str]:
    """Yield the pieces of the text that a request for one sample gives; one piece where it only comes as a whole.

    Args:
        model: the model.
        request: the request.
        active: the model's active adapters with their weights.
        stop: texts at which it ends.
        cache: as `zoo.weights.dense_cache.caching` takes it.

    Raises:
        ZooError: the request cannot be, or gives something else than one text.
    """
    request = hooks.declared(model, request)
    engine = hooks.engine(model, 1)
    prepared = None if engine is None else engine.prepare(request, stop)
    if engine is None or prepared is None:
        return _whole(model, request, stop, cache)
    if prepared.texts != 1:
        raise ZooError(f"expected a request for one text, got one for {prepared.texts}: stream one after the other")
    return _pieces(model, engine, prepared, dict(active) or None, cache)


def _pieces(
    model: LoadedModel, engine: Engine, prepared: Prepared, adapter: Mapping[str, float] | None, cache: Any
) -> Iterator[str]:
    from zoo.weights.dense_cache import caching

    if prepared.begins:
        yield prepared.begins
    # What is in force while a step runs must not be so for the caller between two pieces.
    own, kept = copy_context(), ExitStack()
    own.run(kept.enter_context, caching(model.module, cache))
    try:
        engine.admit(None, prepared, adapter)
        ended = False
        while not ended:
            for event in own.run(_step, model, engine):
                ended = ended or isinstance(event, Ended)
                if isinstance(event, Said):
                    yield event.text
    finally:
        own.run(kept.close)


def _step(model: LoadedModel, engine: Engine) -> list[Said | Ended]:
    import torch

    from zoo.torch_state.modes import evaluating

    with torch.no_grad(), evaluating(model.module):
        return list(engine.step())


def _whole(model: LoadedModel, request: SampleRequest, stop: tuple[str, ...], cache: Any) -> Iterator[str]:
    from zoo.weights.dense_cache import caching

    if stop:
        raise ZooError(f"{model.entry.name}: its texts come as a whole, without stop texts: leave stop out")
    with caching(model.module, cache):
        samples = hooks.draw(model, request)
    if samples.kind != "text" or len(samples) != 1:
        raise ZooError(f"expected a request for one text, got {samples!r}, which comes as a whole: use sample")
    return iter(samples.data)
