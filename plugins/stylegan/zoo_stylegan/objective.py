"""The adversarial objective (arXiv 1912.04958): non-saturating logistic losses, lazy R1 and path length regularisation.

Both players train in one backward pass over one scalar: the generator's loss sends its gradient through the generated
images and no further into the discriminator, the discriminator's stops at the images. So one optimizer, one checkpoint
and one adapter hold the whole game; it is simultaneous instead of alternating gradient descent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from .networks import Generator, StyleGAN2

R1_EVERY = 16  # batches from one R1 penalty to the next, and as often as much
PATH_EVERY = 4
PATH_DECAY = 0.01


def adversarial(
    module: StyleGAN2,
    images: Tensor,
    labels: Tensor | None,
    ws: Tensor,
    *,
    index: int | None,
    seed: int | None,
    r1_gamma: float,
    path_weight: float,
) -> tuple[Tensor, Tensor]:
    """Return the scalar to call `backward` on, and the losses of discriminator and generator [2], of one batch.

    Args:
        module: the generator and its discriminator.
        images: [n, c, h, w] in [-1, 1].
        labels: [n], or None.
        ws: [n, num_ws, w], what to generate from.
        index: number of the batch: R1 falls due at 15, 31, …, path length at 3, 7, …; None: never.
        seed: of the noise images; None: torch's own state.
        r1_gamma: the weight of R1.
        path_weight: the weight of the path length penalty.
    """
    generator, discriminator = module.generator, module.discriminator
    noise = None if seed is None else torch.Generator().manual_seed(seed)
    fake = generator.synthesis(ws, "random", noise)  # [n, c, h, w]
    shown = fake.detach().requires_grad_()
    penalised = index is not None and index % R1_EVERY == R1_EVERY - 1 and r1_gamma > 0
    real = images.to(fake.dtype).detach().requires_grad_(penalised)
    fake_logits = discriminator(shown, labels).float()  # [n]
    real_logits = discriminator(real, labels).float()  # [n]
    loss_d = F.softplus(fake_logits).mean() + F.softplus(-real_logits).mean()
    loss_g = F.softplus(-fake_logits).mean()
    (pull,) = torch.autograd.grad(loss_g, shown, retain_graph=True)
    total = loss_d + (fake * pull).float().sum()
    if penalised:
        total = total + r1_gamma / 2 * R1_EVERY * r1(real_logits, real)
    if index is not None and index % PATH_EVERY == PATH_EVERY - 1 and path_weight > 0:
        half = max(1, len(ws) // 2)
        lengths = path_lengths(generator, ws[:half], noise)
        mean = running_mean(module.path_length, lengths)
        total = total + path_weight * PATH_EVERY * (lengths - mean).square().mean()
    return total, torch.stack([loss_d.detach(), loss_g.detach()])


def r1(logits: Tensor, images: Tensor) -> Tensor:
    """Return the squared norm of the logits' gradient, its mean over the images (arXiv 1801.04406), differentiable."""
    (slope,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return slope.float().square().sum(dim=(1, 2, 3)).mean()


def path_lengths(generator: Generator, ws: Tensor, noise: torch.Generator | None) -> Tensor:
    """Return ‖Jᵀy‖ [n] of the synthesis at ws [n, num_ws, w] for random images y of norm about 1, differentiable."""
    if not ws.requires_grad:
        ws = ws.detach().requires_grad_()
    images = generator.synthesis(ws, "random", noise)  # [n, c, h, w]
    device = "cpu" if noise is not None else images.device
    y = (
        torch.randn(images.shape, generator=noise, device=device).to(images)
        / (images.shape[-1] * images.shape[-2]) ** 0.5
    )
    (slope,) = torch.autograd.grad((images * y).sum(), ws, create_graph=True)  # [n, num_ws, w]
    return slope.float().square().sum(dim=2).mean(dim=1).sqrt()


@torch.no_grad()
def running_mean(held: Tensor, lengths: Tensor) -> Tensor:
    """Move the running mean in `held` towards the lengths' own, at which it starts, and return it."""
    now = lengths.detach().mean().to(held)
    held.copy_(torch.where(held == 0, now, torch.lerp(held, now, PATH_DECAY)))
    return held.detach().clone().float()


def mixed(generator: Generator, w: Tensor, other: Tensor | None, crossover: int) -> Tensor:
    """Return one w per layer, [n, num_ws, w]; from layer `crossover` on those of `other` (style mixing)."""
    ws = generator.styles(w)
    if other is None or crossover >= ws.shape[1]:
        return ws
    return torch.cat([ws[:, :crossover], generator.styles(other)[:, crossover:]], dim=1)
