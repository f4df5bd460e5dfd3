"""Batches, the loss of both players, metrics and samples. Shapes: n images of c channels, s × s pixels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo import Samples
from zoo.data.batches import generator_of
from zoo.data.images import image_batches, image_data
from zoo.metrics import Scores, add_distances, frechet_distance
from zoo.metrics.drawn import DISTANCES

if TYPE_CHECKING:
    from zoo import BatchRequest, EvaluationRequest, Model, SampleRequest
    from zoo.metrics import Figures

    from .model import DCGAN

_EVALUATED = 520  # images at most
_SMALL = 8  # pixels at which real and generated images are compared


def tuning() -> dict[str, Any]:
    """Return the defaults of tuning: momentum makes two players that learn at once run around each other."""
    return {"betas": (0.0, 0.99), "ema_decay": 0.98, "warmup": 0.1}


def batches(model: Model, data: Any, request: BatchRequest) -> Iterator[dict[str, Tensor]]:
    """Return batches of "images" [n, c, s, s] in [-1, 1] and "z" [n, latent] from the request's seed."""
    latent = model.module.latent
    rows = image_batches(data, request, size=model.module.size, channels=model.module.channels)

    def both(row: dict[str, Tensor], number: int) -> dict[str, Tensor]:
        real = row["images"]
        return {"images": real, "z": torch.randn(len(real), latent, generator=generator_of(request.seed, number))}

    return rows.map(both)


def loss(model: Model, batch: dict[str, Tensor]) -> Tensor:
    """Return one step of both players, with the running means of the checkpoint: a scalar; see `play`.

    An adapter holds factors and no running means: if they followed the batches, it would not be the same model once it
    is loaded again. Full tuning does the same, so that the two are one objective. Random weights have no running means
    worth keeping, so there batch normalisation takes the batch's own.
    """
    for layer in model.module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.train(model.entry.weights == "random")
    images, z = (batch[name].to(model.device, model.dtype) for name in ("images", "z"))
    return play(model.module, images, z)


def play(module: DCGAN, real: Tensor, z: Tensor) -> Tensor:
    """Return one scalar whose backward pass trains both players, each on its own loss.

    The discriminator's, softplus(D(G(z))) + softplus(-D(x)), stops at the images; the generator's, softplus(-D(G(z))),
    goes through the images and not into the discriminator. The value is the discriminator's loss, 2 log 2 = 1.39 where
    it knows nothing: of the two it is the one that falls, for the better it gets the higher is the other.
    """
    fake = module(z)  # [n, c, s, s]
    shown = fake.detach().requires_grad_()
    fake_logits = module.discriminator(shown).float()  # [n, 1, 1, 1]
    real_logits = module.discriminator(real).float()  # [n, 1, 1, 1]
    loss_d = F.softplus(fake_logits).mean() + F.softplus(-real_logits).mean()
    loss_g = F.softplus(-fake_logits).mean()
    (pull,) = torch.autograd.grad(loss_g, shown, retain_graph=True)
    total = loss_d + (fake * pull).float().sum()
    return total - total.detach() + loss_d.detach()


def evaluate(model: Model, data: Any, request: EvaluationRequest) -> Figures:
    """Return "frechet_pixels" and "critic_gap" of held-out images and as many generated ones (z of seed 0).

    The first is their Fréchet distance at 8 × 8 pixels, the second by how much the discriminator's logits of held-out
    images are above those of generated ones. Where they are wanted the distances of `zoo.metrics.add_distances`.
    """
    wanted = request.take(*DISTANCES, usual=("frechet_pixels", "critic_gap"))
    module = model.module
    images, _ = image_data(data, size=module.size, channels=module.channels, split="test")
    images = images[:_EVALUATED]
    z = torch.randn(len(images), module.latent, generator=torch.Generator().manual_seed(0))
    fake = module(z.to(model.device, model.dtype))
    gaps = module.discriminator(images.to(model.device, model.dtype)) - module.discriminator(fake)
    scores = Scores("images")
    scores.add("frechet_pixels", frechet_distance, _small(fake), _small(images), resamples=100, biased=True)
    scores.mean("critic_gap", gaps.float().flatten())
    shown = [(pictures.float().cpu() / 2 + 0.5).clamp(0, 1) for pictures in (fake, images)]
    add_distances(scores, shown[0], shown[1], wanted, request.judge)
    return scores.figures()


def _small(images: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(images.float().cpu(), _SMALL).flatten(1)


def sample(model: Model, request: SampleRequest) -> Samples:
    """Return `request.n` images; option `spread`: the standard deviation of z (below 1: likelier, less varied)."""
    spread = request.take()["spread"]
    generator = request.generator()  # on the CPU: a seed gives the same images on every device, up to rounding
    z = spread * torch.randn(request.n, model.module.latent, generator=generator)
    images = model.module(z.to(model.device, model.dtype))
    return Samples((images.float().cpu() / 2 + 0.5).clamp(0, 1), "image")
