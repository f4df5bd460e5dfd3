"""Distances of two sets of features that torchmetrics does not have. Shapes: n and m items, d features."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.errors import DataError

DIRECTIONS = 256
NEIGHBOURS = 3


def sliced_wasserstein(a: Tensor, b: Tensor, directions: int = DIRECTIONS, seed: int = 0) -> float:
    """Return the mean, over random directions, of the first Wasserstein distance of the features' projections.

    Args:
        a: [n, d].
        b: [n, d], as many.
        directions: how many, uniform on the sphere.
        seed: what they are drawn from.

    Raises:
        DataError: the shapes differ.
    """
    if a.shape != b.shape or a.ndim != 2:
        raise DataError(f"expected two sets of as many features [n, d], got {list(a.shape)} and {list(b.shape)}")
    generator = torch.Generator().manual_seed(seed)
    lines = torch.randn(a.shape[1], directions, generator=generator, dtype=torch.float64)
    lines /= lines.norm(dim=0)
    one, two = ((features.double().cpu() @ lines).sort(0).values for features in (a, b))  # [n, directions]
    return float((one - two).abs().mean())


def covered(points: Tensor, by: Tensor, neighbours: int = NEIGHBOURS) -> Tensor:
    """Return which points lie in the manifold of others: 1.0 or 0.0 for each, [n].

    The manifold is the union of balls around each of the others, as wide as the distance to its k-th nearest neighbour
    (improved precision and recall, arXiv 1904.06991). Precision is the share of drawn items that real ones cover,
    recall the share of real ones that drawn ones cover.

    Args:
        points: [n, d].
        by: the others, [m, d], more than `neighbours`.
        neighbours: k.

    Raises:
        DataError: there are too few others.
    """
    if len(by) <= neighbours:
        raise DataError(f"precision and recall need more than {neighbours} items of each kind, got {len(by)}")
    points, by = points.double().cpu(), by.double().cpu()
    own = torch.cdist(by, by, compute_mode="donot_use_mm_for_euclid_dist")
    radii = own.kthvalue(neighbours + 1, dim=1).values  # the nearest is the item itself
    found = torch.cdist(points, by, compute_mode="donot_use_mm_for_euclid_dist") <= radii  # [n, m]
    return found.any(1).double()
