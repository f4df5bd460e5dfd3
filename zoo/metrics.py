"""Figures of what a generator draws: how far its pictures lie from real ones, and whether a classifier reads them.

A judge is any image classifier in timm's manner, loaded by the caller::

    judge = zoo.load("vit")
    metrics.judged(judge, samples.data, labels=labels, reference=real_images)   # {"frechet": …, "accuracy": …}
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from zoo.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn


class Judge(Protocol):
    """What is needed of a classifier that reads pictures; a `zoo.Model` of one has it."""

    module: nn.Module
    device: torch.device
    dtype: torch.dtype

    def batches(self, data: Any = None, *, batch_size: int, split: str = "train", seed: int = 0) -> Iterable[Any]:
        """Batches of pictures under the key `images`, as the classifier takes them."""


_CHUNK = 128  # pictures in one call of the judge


def frechet_distance(features_a: Tensor, features_b: Tensor) -> float:
    """The squared Fréchet distance of two Gaussians that have the features' means and covariances.

    features_a: `[n, d]`, features_b: `[m, d]`, n and m at least 2. |μa - μb|² + tr(Σa + Σb - 2 (Σa Σb)^½), with the
    unbiased covariances, as in the Fréchet inception distance (arXiv 1706.08500). Computed in float64, and without a
    matrix root: with Σ = RᵀR/(n-1) from the QR decomposition of the centred features, the trace of (Σa Σb)^½ is the sum
    of the singular values of Ra Rbᵀ over √((n-1)(m-1)), which is also right for fewer items than features. The figure
    falls with the number of items for the same two distributions: compare only figures of equal numbers. Raises
    `DataError` for other shapes, and for features that are not finite.
    """
    a, b = (_checked(features) for features in (features_a, features_b))
    if a.shape[1] != b.shape[1]:
        raise DataError(f"expected features of one width, got {a.shape[1]} and {b.shape[1]}: use one model for both")
    mean_a, mean_b = a.mean(0), b.mean(0)
    root_a, root_b = (
        torch.linalg.qr(x - mean, mode="r").R / (len(x) - 1) ** 0.5 for x, mean in ((a, mean_a), (b, mean_b))
    )
    cross = torch.linalg.svdvals(root_a @ root_b.T).sum()
    distance = (mean_a - mean_b).square().sum() + root_a.square().sum() + root_b.square().sum() - 2 * cross
    return max(distance.item(), 0.0)


def accuracy(scores: Tensor, labels: Tensor) -> float:
    """The share of rows of `scores` `[n, classes]` (probabilities or logits) whose largest is at `labels` `[n]`."""
    labels = torch.as_tensor(labels)
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or not len(labels):
        raise DataError(
            f"expected scores [n, classes] and n labels, at least one; got {list(scores.shape)}, {list(labels.shape)}"
        )
    return (scores.argmax(1).cpu() == labels.cpu()).double().mean().item()


@torch.no_grad()
def read(judge: Judge, images: Tensor) -> tuple[Tensor, Tensor]:
    """What a classifier makes of pictures `[n, c, h, w]` in [0, 1]: features `[n, d]` and probabilities `[n, classes]`.

    The features are those before the classifier's last layer. The judge's own preprocessing applies. Raises `DataError`
    where the judge is no such classifier.
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
        for batch in judge.batches(images, batch_size=_CHUNK, split="test"):
            hidden = module.forward_features(batch["images"].to(judge.device, judge.dtype))
            features.append(module.forward_head(hidden, pre_logits=True).float().cpu())
            probabilities.append(module.forward_head(hidden).float().softmax(-1).cpu())
    finally:
        module.train(training)
    return torch.cat(features), torch.cat(probabilities)


def judged(
    judge: Judge, images: Tensor, *, labels: Tensor | None = None, reference: Tensor | None = None
) -> dict[str, float]:
    """Figures of generated pictures `[n, c, h, w]` in [0, 1].

    "frechet", where `reference` pictures `[m, c, h, w]` are given: the distance in the judge's feature space.
    "accuracy", where the classes `labels` `[n]` that the pictures were asked for are given: the share that the judge
    reads as such.
    """
    features, probabilities = read(judge, images)
    figures = {}
    if reference is not None:
        figures["frechet"] = frechet_distance(features, read(judge, reference)[0])
    if labels is not None:
        figures["accuracy"] = accuracy(probabilities, labels)
    return figures


def _checked(features: Tensor) -> Tensor:
    if not isinstance(features, Tensor) or features.ndim != 2 or len(features) < 2:
        got = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise DataError(f"expected features as a Tensor [n, d] of at least 2 items, got {got}")
    features = features.detach().double().cpu()
    if not torch.isfinite(features).all():
        raise DataError("expected finite features, found NaN or infinity: is the judge computing in half precision?")
    return features
