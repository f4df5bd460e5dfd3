"""The hooks of both kinds of model: language models, and heads for texts or words on the same bodies."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from zoo.data.text_tasks import TextTask
from zoo.integrations.transformers import tokenizer_of
from zoo.integrations.transformers_heads import check_has_head

from . import text
from .model import is_classifier

if TYPE_CHECKING:
    from torch import Tensor

    from zoo import BatchRequest, EvaluationRequest, Model, SampleRequest, Samples
    from zoo.metrics import Figures


def sample(model: Model, request: SampleRequest) -> Samples:
    """Return texts, or what the model says of given ones."""
    return _task(model).sample(request) if _classifies(model) else text.sample(model, request)


def loss(model: Model, batch: dict[str, Tensor]) -> Tensor:
    """Return the mean loss of the tokens to come, or of the labels: a scalar."""
    return _task(model).loss(batch) if _classifies(model) else text.loss(model, batch)


def count(model: Model, batch: dict[str, Tensor]) -> float:
    """Return how many tokens or labels the loss of a batch is the mean of."""
    return _task(model).count(batch) if _classifies(model) else text.count(model, batch)


def batches(model: Model, data: Any, request: BatchRequest) -> Iterable[dict[str, Tensor]]:
    """Return batches of windows of tokens, or of texts with their labels."""
    return _task(model).batches(data, request) if _classifies(model) else text.batches(model, data, request)


def evaluate(model: Model, data: Any, request: EvaluationRequest) -> Figures:
    """Return the metrics on held-out data."""
    return _task(model).evaluate(data) if _classifies(model) else text.evaluate(model, data, request)


def _task(model: Model) -> TextTask:
    return TextTask(model, tokenizer_of(model.entry), text.context_of(model))


def _classifies(model: Model) -> bool:
    """Return whether the model has a head for texts or words; raise `ZooError` for a body without any."""
    check_has_head(model.entry.name, model.module)
    return is_classifier(model.module)
