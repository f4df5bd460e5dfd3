"""Metrics of classifiers, from torchmetrics. Shapes: n examples, c classes."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from zoo.metrics.scores import Scores

TOP = 5
BINS = 15  # of the calibration error


def add_classification(scores: Scores, logits: Tensor, labels: Tensor) -> None:
    """Add "accuracy", "loss", of more than five classes "top5_accuracy", and "calibration_error".

    The loss is the mean cross entropy in nats. The calibration error is the expected one: the mean distance of
    confidence and accuracy in 15 bins of the confidence.

    Args:
        scores: where to add them.
        logits: [n, c].
        labels: int64 [n].
    """
    from torch.nn import functional
    from torchmetrics.functional.classification import multiclass_calibration_error

    logits, labels = logits.detach().float().cpu(), labels.cpu()
    classes = logits.shape[1]
    scores.mean("accuracy", right(logits, labels))
    scores.mean("loss", functional.cross_entropy(logits.double(), labels, reduction="none"))
    if classes > TOP:
        scores.mean("top5_accuracy", right(logits, labels, TOP))
    if classes > 1:
        scores.add(
            "calibration_error",
            partial(multiclass_calibration_error, num_classes=classes, n_bins=BINS, validate_args=False),
            logits.softmax(-1),
            labels,
            biased=True,
        )


def right(logits: Tensor, labels: Tensor, top: int = 1) -> Tensor:
    """Return for each of n examples 1.0 where the label is among the `top` likeliest classes, else 0.0: [n]."""
    from torchmetrics.functional.classification import multiclass_accuracy

    classes = logits.shape[1]
    if classes < 2 or not len(logits):
        return torch.ones(len(logits))
    found: Tensor = multiclass_accuracy(
        logits.float()[..., None],
        labels[..., None],
        num_classes=classes,
        average="micro",
        top_k=min(top, classes),
        multidim_average="samplewise",
        validate_args=False,
    )
    return found
