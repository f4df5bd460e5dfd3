"""A byte-level LSTM language model: torch's own `nn.LSTM`, whose weights are flat parameters of no layer class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from zoo import hookimpl

if TYPE_CHECKING:
    from torch import Tensor, nn

    from zoo import BatchRequest, Entry, Model, SampleRequest, Samples


@hookimpl
def recognises(config: dict[str, Any]) -> bool:
    from .facts import recognises

    return recognises(config)


@hookimpl
def construct(entry: Entry) -> nn.Module:
    from .model import construct

    return construct(entry)


@hookimpl
def sample(model: Model, request: SampleRequest) -> Samples:
    from .text import sample

    return sample(model, request)


@hookimpl
def loss(model: Model, batch: dict[str, Tensor]) -> Tensor:
    from .text import loss

    return loss(model, batch)


@hookimpl
def batches(model: Model, data: Any, request: BatchRequest) -> Iterator[dict[str, Tensor]]:
    from .text import batches

    return batches(data, request)


@hookimpl
def evaluate(model: Model, data: Any) -> dict[str, float]:
    from .text import evaluate

    return evaluate(model, data)


@hookimpl
def describe(entry: Entry) -> dict[str, str]:
    from .facts import describe

    return describe(entry)
