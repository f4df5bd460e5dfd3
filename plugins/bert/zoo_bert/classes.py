"""Texts with labels: what `zoo.data.text_tasks` does for every model with a head, for this architecture's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from zoo.data.text_tasks import TextTask

from .model import context_of, tokenizer_of

if TYPE_CHECKING:
    from torch import Tensor

    from zoo import BatchRequest, Model, SampleRequest, Samples
    from zoo.metrics import Figures


def _task(model: Model) -> TextTask:
    return TextTask(model, tokenizer_of(model), context_of(model))


def batches(model: Model, data: Any, request: BatchRequest) -> Iterable[dict[str, Tensor]]:
    """Return batches of texts with their labels."""
    return _task(model).batches(data, request)


def loss(model: Model, batch: dict[str, Tensor]) -> Tensor:
    """Return the mean loss of the labels: a scalar."""
    return _task(model).loss(batch)


def count(model: Model, batch: dict[str, Tensor]) -> float:
    """Return how many labels the loss of a batch is the mean of."""
    return _task(model).count(batch)


def evaluate(model: Model, data: Any) -> Figures:
    """Return the metrics of the model's task on held-out texts."""
    return _task(model).evaluate(data)


def sample(model: Model, request: SampleRequest) -> Samples:
    """Return what the model says of the texts."""
    return _task(model).sample(request)
