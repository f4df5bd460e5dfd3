"""DCGAN (arXiv 1511.06434): two networks of strided convolutions that learn against each other."""

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
    from .game import sample

    return sample(model, request)


@hookimpl
def loss(model: Model, batch: dict[str, Tensor]) -> Tensor:
    from .game import loss

    return loss(model, batch)


@hookimpl
def batches(model: Model, data: Any, request: BatchRequest) -> Iterator[dict[str, Tensor]]:
    from .game import batches

    return batches(model, data, request)


@hookimpl
def evaluate(model: Model, data: Any) -> dict[str, float]:
    from .game import evaluate

    return evaluate(model, data)


@hookimpl
def tuning() -> dict[str, Any]:
    from .game import tuning

    return tuning()


@hookimpl
def describe(entry: Entry) -> dict[str, str]:
    from .facts import describe

    return describe(entry)
