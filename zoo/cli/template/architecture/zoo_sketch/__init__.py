"""The architecture `sketch`: its hooks. What is heavy is imported inside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import zoo

if TYPE_CHECKING:
    from torch import Tensor, nn


@zoo.hookimpl
def recognises(config: dict[str, Any]) -> bool:
    return config.get("model_type") == "sketch"


@zoo.hookimpl
def construct(entry: zoo.Entry) -> nn.Module:
    from .model import build

    return build(entry.config)


@zoo.hookimpl
def checkpoint(entry: zoo.Entry) -> Iterator[tuple[str, Tensor]] | None:
    if entry.folder is not None:
        return None  # zoo reads the safetensors there
    from .model import untrained

    return untrained(entry.config)


@zoo.hookimpl
def batches(model: zoo.Model, data: Any, request: zoo.BatchRequest) -> Iterable[dict[str, Tensor]]:
    from .training import batches

    return batches(model, data, request)


@zoo.hookimpl
def loss(model: zoo.Model, batch: dict[str, Tensor]) -> Tensor:
    from .training import loss

    return loss(model, batch)


@zoo.hookimpl
def evaluate(model: zoo.Model, data: Any) -> dict[str, float]:
    from .training import evaluate

    return evaluate(model, data)


@zoo.hookimpl
def sample(model: zoo.Model, request: zoo.SampleRequest) -> zoo.Samples:
    from .sampling import sample

    return sample(model, request)


@zoo.hookimpl
def describe(entry: zoo.Entry) -> dict[str, str]:
    return {"context": f"{entry.config['context']} characters"}
