"""An image classifier as the judge of generated pictures: its features, and how it classifies them.

The judge is any image classifier with timm's methods, loaded by the caller::

    judge = zoo.load("vit")
    metrics.judged(judge, samples.data, labels=labels, reference=real_images)   # {"frechet": …, "accuracy": …}
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from zoo.errors import DataError
from zoo.metrics.frechet import frechet_distance

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn


class Judge(Protocol):
    """The interface of an image classifier; a `zoo.Model` of one has it.

    Attributes:
        module: a module with `forward_features` and `forward_head`, as timm's.
        device: its device.
        dtype: its compute dtype.
    """

    module: nn.Module
    device: torch.device
    dtype: torch.dtype

    def batches(self, data: Any = None, *, batch_size: int, split: str = "train", seed: int = 0) -> Iterable[Any]:
        """Return batches with preprocessed pictures `[b, c, h, w]` under the key `images`."""


_CHUNK = 128  # pictures in a batch


def accuracy(scores: Tensor, labels: Tensor) -> float:
    """Return the share of rows of `scores` whose largest value is at the label.

    Args:
        scores: `[n, classes]`, probabilities or logits.
        labels: `[n]`, class numbers.

    Raises:
        DataError: the shapes differ from these, or n is 0.
    """
    labels = torch.as_tensor(labels)
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or not len(labels):
        raise DataError(
            f"expected scores [n, classes] and n labels, at least one; got {list(scores.shape)}, {list(labels.shape)}"
        )
    return (scores.argmax(1).cpu() == labels.cpu()).double().mean().item()


@torch.no_grad()
def read(judge: Judge, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return a classifier's features `[n, d]` and probabilities `[n, classes]` for pictures.

    The features are the inputs of the classifier's last layer.

    Args:
        judge: the classifier; its preprocessing is applied.
        images: `[n, c, h, w]` in [0, 1].

    Raises:
        DataError: the judge is no image classifier with timm's methods.
    """
    module: Any = judge.module
    for method in ("forward_features", "forward_head"):
        if not callable(getattr(module, method, None)):
            kind = type(module).__name__
            raise DataError(f"expected an image classifier with timm's {method} as judge, got a {kind}")
    training = module.training
    module.eval()
    features, probabilities = [], []
    try:
        for batch in judge.batches(images, batch_size=_CHUNK, split="all"):
            hidden = module.forward_features(batch["images"].to(judge.device, judge.dtype))
            features.append(module.forward_head(hidden, pre_logits=True).float().cpu())
            probabilities.append(module.forward_head(hidden).float().softmax(-1).cpu())
    finally:
        module.train(training)
    return torch.cat(features), torch.cat(probabilities)


def judged(
    judge: Judge, images: Tensor, *, labels: Tensor | None = None, reference: Tensor | None = None
) -> dict[str, float]:
    """Return metrics of generated pictures: "frechet" if `reference` is given, "accuracy" if `labels` are.

    Args:
        judge: an image classifier.
        images: the generated pictures, `[n, c, h, w]` in [0, 1].
        labels: the classes `[n]` that they were generated for; the accuracy is the share that the judge classifies so.
        reference: real pictures, `[m, c, h, w]` in [0, 1]; the Fréchet distance is taken in the judge's features.

    Raises:
        DataError: as `read`, `accuracy` and `frechet_distance`.
    """
    features, probabilities = read(judge, images)
    metrics = {}
    if reference is not None:
        metrics["frechet"] = frechet_distance(features, read(judge, reference)[0])
    if labels is not None:
        metrics["accuracy"] = accuracy(probabilities, labels)
    return metrics
