"""The Fréchet distance of two sets of features."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.errors import DataError


def frechet_distance(features_a: Tensor, features_b: Tensor) -> float:
    """Return the squared Fréchet distance of two Gaussians with the features' means and covariances.

    |μa - μb|² + tr(Σa + Σb - 2 (Σa Σb)^½), with the unbiased covariances, as in the Fréchet inception distance (arXiv
    1706.08500). Computed in float64, and without a matrix root: with Σ = RᵀR/(n-1) from the QR decomposition of the
    centred features, the trace of (Σa Σb)^½ is the sum of the singular values of Ra Rbᵀ over √((n-1)(m-1)), which is
    also correct for fewer items than features. For the same two distributions the distance decreases with the number of
    items: compare only distances of equal numbers.

    Args:
        features_a: `[n, d]`, n at least 2.
        features_b: `[m, d]`, m at least 2.

    Raises:
        DataError: the features have other shapes, or are not finite.
    """
    a, b = (_checked(features) for features in (features_a, features_b))
    if a.shape[1] != b.shape[1]:
        raise DataError(f"expected features of one width, got {a.shape[1]} and {b.shape[1]}: use one model for both")
    mean_a, mean_b = a.mean(0), b.mean(0)
    root_a, root_b = (  # each [min(n, d), d], with root.T @ root the covariance
        torch.linalg.qr(x - mean, mode="r").R / (len(x) - 1) ** 0.5 for x, mean in ((a, mean_a), (b, mean_b))
    )
    cross = torch.linalg.svdvals(root_a @ root_b.T).sum()
    distance = (mean_a - mean_b).square().sum() + root_a.square().sum() + root_b.square().sum() - 2 * cross
    return max(distance.item(), 0.0)


def _checked(features: Tensor) -> Tensor:
    if not isinstance(features, Tensor) or features.ndim != 2 or len(features) < 2:
        got = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise DataError(f"expected features as a Tensor [n, d] of at least 2 items, got {got}")
    features = features.detach().double().cpu()
    if not torch.isfinite(features).all():
        raise DataError("expected finite features, found NaN or infinity: is the judge computing in half precision?")
    return features
