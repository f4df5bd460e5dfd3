"""What the metrics of generated images are computed from: small images, and a reader of letters."""

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
    """Return images [n, c, h, w] averaged down to 8 × 8, as vectors [n, c · 64]."""
    return F.adaptive_avg_pool2d(images.float().cpu(), SIDE).flatten(1)


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
    """Return the classifier's features [n, d] and letters [n] of images [n, 1, h, w] in [-1, 1].

    The features are those before its last layer, averaged over patches. Its inputs are as its own batches have them.
    """
    module = reader.module
    size = module.patch_embed.img_size
    mean, deviation = (torch.tensor(module.pretrained_cfg[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
    shown = F.interpolate(images.float().cpu(), size=size, mode="bilinear", antialias=True)  # [n, 1, *size]
    shown = (shown.clamp(-1, 1) / 2 + 0.5).expand(-1, mean.shape[1], -1, -1)
    features, letters = [], []
    for part in ((shown - mean) / deviation).split(104):
        found = module.forward_features(part.to(reader.dtype))  # [b, patches, d]
        features.append(found.float().mean(dim=1))
        letters.append(module.forward_head(found).argmax(dim=1))
    return torch.cat(features), torch.cat(letters)
