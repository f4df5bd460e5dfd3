"""Figures of how much generated images are like given ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from zoo import Model

SIDE = 8  # pixels that an image has for `frechet_pixels`
LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")


def small(images: Tensor) -> Tensor:
    """Images [n, c, h, w] averaged down to 8 × 8, as vectors [n, c · 64]."""
    return F.adaptive_avg_pool2d(images.float().cpu(), SIDE).flatten(1)


def frechet(first: Tensor, second: Tensor) -> float:
    """Fréchet distance of two sets of vectors [n, d], [m, d], each seen as a Gaussian (arXiv 1706.08500).

    ‖μ₁ - μ₂‖² + tr(Σ₁ + Σ₂ - 2 (Σ₁ Σ₂)^½), in float64.
    """
    first, second = first.double(), second.double()
    apart = (first.mean(0) - second.mean(0)).square().sum()
    one, other = (torch.cov(rows.t()).reshape(rows.shape[1], rows.shape[1]) for rows in (first, second))
    # tr (Σ₁ Σ₂)^½ is the sum of the singular values of Σ₁^½ Σ₂^½.
    root, other_root = symmetric_root(one), symmetric_root(other)
    common = torch.linalg.svdvals(root @ other_root).sum()
    return (apart + one.trace() + other.trace() - 2 * common).clamp(min=0).item()


def symmetric_root(matrix: Tensor) -> Tensor:
    """Return the square root of a symmetric matrix without negative eigenvalues, [d, d]."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.t()


def letter_reader() -> Model | None:
    """Return the `vit` plugin's embedded classifier of letters; None if that plugin is not installed or has none."""
    import zoo

    if not any(entry.name == "vit" and entry.weights == "embedded" for entry in zoo.entries()):
        return None
    try:
        return zoo.load("vit", device="cpu")
    except zoo.ZooError:
        return None


def read_letters(reader: Model, images: Tensor) -> tuple[Tensor, Tensor]:
    """(features [n, d], letters [n]) that the classifier finds in images [n, 1, h, w] in [-1, 1].

    The features are those before its last layer, averaged over patches. Its inputs are as its own batches have them.
    """
    module = reader.module
    size = module.patch_embed.img_size
    mean, deviation = (torch.tensor(module.pretrained_cfg[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
    shown = F.interpolate(images.float().cpu(), size=size, mode="bilinear", antialias=True)
    shown = (shown.clamp(-1, 1) / 2 + 0.5).expand(-1, mean.shape[1], -1, -1)
    features, letters = [], []
    for part in ((shown - mean) / deviation).split(104):
        found = module.forward_features(part.to(reader.dtype))
        features.append(found.float().mean(dim=1))
        letters.append(module.forward_head(found).argmax(dim=1))
    return torch.cat(features), torch.cat(letters)
