"""Batches, the loss, and metrics on held-out images.

The loss of an image of d pixel values is (½ Σ (x - x̂)² + β·KL) / d. That is, but for a constant, the negative ELBO per
pixel value of a Gaussian decoder whose variance is β, times β (arXiv 1312.6114): β = 1 is unit variance on images in
[-1, 1]. Latent diffusion's own training adds perceptual and adversarial terms, which need networks of their own and are
left out; its weight of 1e-6 stands, as here, against an error that is summed over an image's pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from zoo import SampleRequest
from zoo.data.batches import generator_of
from zoo.data.images import image_batches
from zoo.metrics import Scores, add_distances, add_likeness
from zoo.metrics.drawn import DISTANCES
from zoo.metrics.pictures import LIKENESS
from zoo.torch_state.spread import spread

from . import files
from .model import divergence, image_size, latent_shape, parts, posterior, read, reconstruction
from .options import sample_options
from .sampling import sample

if TYPE_CHECKING:
    from torch import Tensor

    from zoo import BatchRequest, EvaluationRequest, Model
    from zoo.metrics import Figures

_EVALUATED = 520  # images at most
_LEVELS = 255  # steps between the pixel values of a file, which are from -1 to 1 here


def batches(model: Model, data: Any, request: BatchRequest) -> Iterator[dict[str, Tensor]]:
    """Return batches of "images" [n, c, h, w] in [-1, 1], "noise" shaped like their latents.

    The noise of the posterior's draws is drawn here, from the request's seed: a batch has one loss, on every device.
    Labels that the data have are not used.

    Args:
        model: the model.
        data: images as `zoo.data.images.image_data` takes them; None: capitals, "letters:sans".
        request: batch size, split and seed.

    Raises:
        DataError: the data cannot be used.
    """
    channels, classes = model.module.config.in_channels, (0, model.entry.name)
    rows = image_batches(data, request, size=image_size(model), channels=channels, classes=classes)
    return rows.map(
        lambda row, number: {**row, "noise": _noise(model, row["images"], generator_of(request.seed, number))}
    )


def loss(model: Model, batch: dict[str, Tensor]) -> Tensor:
    """Return ½ (x - x̂)² + β·KL, per pixel value, with x̂ decoded from mean + std · noise: a scalar.

    A user's own batch may lack "noise"; it is then drawn from torch's global generator.
    """
    images = batch["images"].to(model.device)
    noise = batch["noise"] if "noise" in batch else _noise(model, images, None)
    mean, logvar = posterior(model, images)  # each [n, latent channels, h/f, w/f]
    decoded = reconstruction(model, mean + (logvar / 2).exp() * noise.to(mean.device))  # [n, c, h, w]
    error = 0.5 * torch.nn.functional.mse_loss(decoded, images.float())
    return error + files.kl_weight(model.entry) * divergence(mean, logvar).mean() / images[0].numel()


def evaluate(model: Model, data: Any, request: EvaluationRequest) -> Figures:
    """Return metrics on at most 520 held-out images, with the same noise every time.

    "loss": as in training. "reconstruction_mse": mean (x - x̂)² in [-1, 1], x̂ decoded from the posterior's mean.
    "kl": nats an image. For β > 0 "elbo": nats an image, of a Gaussian decoder of variance β, and "bits_per_dim": the
    bits by which that bound codes a pixel value of 256 levels.

    Where they are wanted "psnr", "ssim" and "lpips" of the same reconstructions, and the distances of
    `zoo.metrics.add_distances` between as many images that are drawn from the prior and held-out ones.
    """
    usual = ("loss", "reconstruction_mse", "kl", "elbo", "bits_per_dim")
    wanted = request.take(*LIKENESS, *DISTANCES, usual=usual)
    images = read(model, data, "test", limit=_EVALUATED)
    noise = _noise(model, images, torch.Generator().manual_seed(0))
    like = bool(set(wanted) & set(LIKENESS))

    def measured(part: slice) -> tuple[Tensor, ...]:
        here = images[part].to(model.device)
        mean, logvar = posterior(model, here)
        decoded = reconstruction(model, mean + (logvar / 2).exp() * noise[part].to(mean.device))
        again = reconstruction(model, mean)
        errors = [(one - here).square().flatten(1).sum(1).double() for one in (decoded, again)]
        numbers = torch.stack([*errors, divergence(mean, logvar).double()]).cpu()  # [3, b]
        shown = (again / 2 + 0.5).clamp(0, 1).cpu() if like else torch.empty(0)
        return *numbers, shown

    # Of each image; the last ones only where they are compared.
    errors, exact, divergences, made = map(torch.cat, zip(*spread(parts(images), measured), strict=True))
    values, weight, scores = images[0].numel(), files.kl_weight(model.entry), Scores("images")
    scores.mean("loss", (0.5 * errors + weight * divergences) / values)
    scores.mean("reconstruction_mse", exact / values)
    scores.mean("kl", divergences)
    if weight > 0:
        elbo = -0.5 * errors / weight - 0.5 * values * math.log(2 * math.pi * weight) - divergences
        scores.mean("elbo", elbo)
        scores.mean("bits_per_dim", -elbo / (values * math.log(2)) + math.log2(_LEVELS / 2))
    if like:
        add_likeness(scores, made, images / 2 + 0.5, wanted)
    if set(wanted) & set(DISTANCES):
        real = images[: request.samples or _EVALUATED] / 2 + 0.5
        fake = sample(model, SampleRequest(len(real), seed=0, known=tuple(sample_options(model.entry)))).data
        add_distances(scores, fake, real, wanted, request.judge)
    return scores.figures()


def _noise(model: Model, images: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn((len(images), *latent_shape(model, *images.shape[-2:])), generator=generator)
