"""Letters disturbed as a careless hand would draw them, to train a reader of letters from random weights.

So letters which a generator draws a little wrong are still read, and their features lie where letters lie.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def disturb(images: Tensor, seed: int) -> Tensor:
    """Return images [n, 1, h, w] in [0, 1], each changed in its own way.

    They are stretched, sheared, turned, shifted, thickened, blurred, made faint, and noisy.

    Args:
        images: ink 1 on paper 0.
        seed: of all changes.
    """
    generator = torch.Generator().manual_seed(seed)
    count = len(images)

    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)  # [n]

    def sometimes(share: float) -> Tensor:
        return torch.rand(count, generator=generator) < share  # [n]

    # From output to input: turn, then shear, then stretch, about the middle.
    turn, shear = between(-0.16, 0.16), between(-0.2, 0.2)
    wide, tall = between(0.85, 1.25), between(0.85, 1.25)
    cos, sin = turn.cos(), turn.sin()
    rows = [
        torch.stack([wide * (cos + shear * sin), wide * (shear * cos - sin), between(-0.12, 0.12)], -1),
        torch.stack([tall * sin, tall * cos, between(-0.12, 0.12)], -1),
    ]
    identity = torch.eye(2, 3)[None]
    maps = torch.where(sometimes(0.8)[:, None, None], torch.stack(rows, 1), identity)  # [n, 2, 3]
    grid = functional.affine_grid(maps, list(images.shape), align_corners=False)  # [n, h, w, 2]
    images = functional.grid_sample(images, grid, align_corners=False)  # [n, 1, h, w]

    # Thicker: the brightest neighbour. Blurred: a binomial filter, once to three times.
    part = (between(0, 1) * sometimes(0.25)).view(-1, 1, 1, 1)
    images = images.lerp(functional.max_pool2d(images, 3, 1, 1), part)
    kernel = torch.tensor([1.0, 2.0, 1.0]) / 4
    kernel = (kernel[:, None] * kernel)[None, None]  # [1, 1, 3, 3]
    for _ in range(3):
        part = (between(0, 1) * sometimes(0.3)).view(-1, 1, 1, 1)
        images = images.lerp(functional.conv2d(images, kernel, padding=1), part)

    # Faint ink, grey paper, noise of any strength up to a quarter of the range.
    ink, paper = (where.view(-1, 1, 1, 1) for where in (1 - between(0, 0.5) * sometimes(0.3), between(0, 0.25)))
    images = images * ink + (1 - images) * paper * sometimes(0.25).view(-1, 1, 1, 1)
    strength = (between(0, 0.25) * sometimes(0.4)).view(-1, 1, 1, 1)
    return (images + strength * torch.randn(images.shape, generator=generator)).clamp(0, 1)
