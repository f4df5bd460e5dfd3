"""Images from the prior, reconstructions, and paths between images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from zoo import Samples, ZooError

from . import files
from .model import decode, latent_shape, parts, posterior, read

if TYPE_CHECKING:
    from torch import Tensor

    from zoo import Model, SampleRequest
    from zoo.plugin.draws import Draws


def sample(model: Model, request: SampleRequest) -> Samples:
    """Return images [n, c, h, w] in [0, 1].

    Random numbers are drawn on the CPU from the seed: a seed gives the same images on every device, up to rounding.

    Args:
        model: the model.
        request: its options are `mode`: "prior" (default without data) decodes points of N(0, I), "reconstruct"
            (default with data) the first `n` images of the data (those held out, if the data have splits of their own),
            again from the first where there are fewer,
            "interpolate" `n` points evenly along the straight lines from each of the first `ends` images to the next;
            `data`: images as `zoo.Model.evaluate` takes them; `ends`: at least 2 (default 2); `temperature`: the
            standard deviation, as a multiple of the prior's or the posterior's, by default 1 for the prior and 0 (the
            mean) for the other two; `size`: pixels of an edge, the model's own by default.

    Raises:
        ZooError: an option cannot be, or the model has no prior that is usable, by the KL weight of its configuration.
    """
    options = request.take()
    mode, data, size, ends = (options[name] for name in ("mode", "data", "size", "ends"))
    if mode is None:
        mode = "prior" if data is None else "reconstruct"
    temperature = options["temperature"]
    if temperature is None:
        temperature = 1.0 if mode == "prior" else 0.0
    if mode == "prior":
        latents = _prior(model, request.draws(), data, size) * temperature
    else:
        if data is None:
            raise ZooError(f'mode="{mode}" needs images: give data= a folder, tensors or a name such as "letters:sans"')
        images = read(model, data, "shown", size)
        if not len(images):
            raise ZooError(f'mode="{mode}" needs at least one image, and the data hold none')
        count = request.n if mode == "reconstruct" else ends
        images = images[torch.arange(count) % len(images)]
        latents = _posterior(model, images, temperature, request.generator())
        if mode == "interpolate":
            latents = path(latents, request.n)
    return Samples(decode(model, latents), "image")


def path(latents: Tensor, count: int) -> Tensor:
    """Return `count` points evenly along the straight lines through `latents` [k, ...], from the first to the last."""
    places = torch.linspace(0, len(latents) - 1, count)  # [count]
    before = places.floor().long().clamp(max=len(latents) - 2)  # [count]
    share = (places - before).view(-1, *[1] * (latents.ndim - 1))  # [count, 1, ...]
    return torch.lerp(latents[before], latents[before + 1], share)


def _prior(model: Model, draws: Draws, data: Any, size: int | None) -> Tensor:
    """Return latents drawn from N(0, I) [n, latent channels, h/f, w/f]."""
    if data is not None:
        raise ZooError('mode="prior" takes no data: use mode="reconstruct" or mode="interpolate" with them')
    if not files.has_prior(model.entry):
        raise ZooError(
            f"{model.entry.name} was trained with a KL weight of {files.kl_weight(model.entry):g}, so points of its "
            'prior decode to no images: give data= and mode="reconstruct" or mode="interpolate"'
        )
    if size is None:
        size = model.module.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    return draws.normal((draws.n, *latent_shape(model, height, width)))


def _posterior(model: Model, images: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Return latents drawn from the posteriors of images, shaped like z."""
    found = [posterior(model, images[part]) for part in parts(images)]
    mean, logvar = (torch.cat([pair[i].cpu() for pair in found]) for i in (0, 1))
    return mean + temperature * (logvar / 2).exp() * torch.randn(mean.shape, generator=generator)
