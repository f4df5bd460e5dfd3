"""The hooks of both kinds of model: masked language models, and text classifiers on the same bodies."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from zoo.integrations.transformers_heads import check_has_head

from . import classes, masks, text
from .model import is_classifier

if TYPE_CHECKING:
    from torch import Tensor

    from zoo import BatchRequest, EvaluationRequest, Model, SampleRequest, Samples
    from zoo.metrics import Figures


def sample(model: Model, request: SampleRequest) -> Samples:
    """Return texts with their masks filled, or what class each text is of."""
    return (classes if _classifies(model) else masks).sample(model, request)


def loss(model: Model, batch: dict[str, Tensor]) -> Tensor:
    """Return the mean cross entropy, in nats, of the tokens or the classes to be predicted: a scalar."""
    return (classes if _classifies(model) else text).loss(model, batch)


def count(model: Model, batch: dict[str, Tensor]) -> float:
    """Return how many tokens or labels the loss of a batch is the mean of."""
    return (classes if _classifies(model) else text).count(model, batch)


def batches(model: Model, data: Any, request: BatchRequest) -> Iterable[dict[str, Tensor]]:
    """Yield windows of tokens with masks in them, or texts with their classes."""
    return (classes if _classifies(model) else text).batches(model, data, request)


def evaluate(model: Model, data: Any, request: EvaluationRequest) -> Figures:
    """Return the metrics on held-out data."""
    return classes.evaluate(model, data) if _classifies(model) else text.evaluate(model, data, request)


def _classifies(model: Model) -> bool:
    """Return whether the model has a head for texts or words; raise `ZooError` for a body without any."""
    check_has_head(model.entry.name, model.module)
    return is_classifier(model.module)
