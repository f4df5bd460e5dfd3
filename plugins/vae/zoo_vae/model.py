"""Build an autoencoder, read its weights under today's names, encode, decode, and save it.

Notation: x an image in [-1, 1], z its latent, q(z|x) = N(mean, std²) the encoder's posterior, x̂ the decoder's image
of z. Shapes: x [n, c, h, w], z [n, latent channels, h/f, w/f], f = 2^(blocks - 1).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKL

import zoo
from zoo import CheckpointError, DataError
from zoo.data.images import image_data
from zoo.data.pixels import edges
from zoo.integrations.configured import without_code
from zoo.integrations.diffusers import current_name, save_library_model

from . import files

if TYPE_CHECKING:
    from torch import Tensor

    from zoo import Entry, Model

_PIXELS = 64 * 32 * 32  # in one call of the module


def construct(entry: Entry) -> AutoencoderKL:
    """Return the module that the entry's configuration describes, in evaluation mode."""
    config = {key: value for key, value in files.vae_config(entry).items() if key != files.KL_WEIGHT}
    try:
        return AutoencoderKL.from_config(without_code(config, entry.name)).eval()
    except (TypeError, ValueError, KeyError, AttributeError, IndexError, RuntimeError) as error:
        raise CheckpointError(f"the configuration of {entry.name} does not make an AutoencoderKL: {error}") from error


def checkpoint(entry: Entry) -> Iterator[tuple[str, Tensor]]:
    """Yield the checkpoint's tensors under the module's names."""
    for name, tensor in zoo.checkpoint.tensors(dataclasses.replace(entry, folder=files.vae_folder(entry))):
        new = current_name(name)
        # Some of these files keep the 1×1 convolutions that the projections once were.
        yield new, tensor[..., 0, 0] if new != name and tensor.ndim == 4 else tensor


def read(model: Model, data: Any, split: str, size: int | None = None, limit: int | None = None) -> Tensor:
    """Return images [n, c, h, w] in [-1, 1]; labels that the data have are not used.

    Args:
        model: the model.
        data: as `zoo.data.images.image_data` takes them; None: capitals, "letters:sans".
        split: as `zoo.data.images.image_items` takes it.
        size: pixels of an edge; None: the model's own.
        limit: how many images at most.

    Raises:
        DataError: the data cannot be used, or the model cannot halve the size often enough.
    """
    shape, channels, classes = image_size(model, size), model.module.config.in_channels, (0, model.entry.name)
    return image_data(data, size=shape, channels=channels, split=split, classes=classes, limit=limit)[0]


def image_size(model: Model, size: int | None = None) -> tuple[int, int]:
    """Return height and width in pixels: `size` for both, or those of the model's own images.

    Raises:
        DataError: the model cannot halve them often enough.
    """
    config = model.module.config
    height, width = edges(config.sample_size if size is None else size)
    factor = files.factor(config)
    for edge in (height, width):
        if edge < factor or edge % factor:
            raise DataError(
                f"{model.entry.name}: expected images whose edge is a multiple of {factor} pixels, got {edge}"
            )
    return height, width


def latent_shape(model: Model, height: int, width: int) -> tuple[int, int, int]:
    """Return the shape of the latent of an image of `height` × `width` pixels."""
    config = model.module.config
    factor = files.factor(config)
    return config.latent_channels, height // factor, width // factor


def posterior(model: Model, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and log variance of q(z|x), shaped like z, of images x in [-1, 1]: float32, on the model's device."""
    found = model.module.encode(images.to(model.device, model.dtype)).latent_dist
    return found.mean.float(), found.logvar.float()


def reconstruction(model: Model, latents: Tensor) -> Tensor:
    """Return x̂ of latents z: float32 [n, c, h, w], about [-1, 1], on the model's device."""
    return model.module.decode(latents.to(model.device, model.dtype)).sample.float()


def divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """Return KL(q(z|x) ‖ N(0, I)) of each image in nats, [n] (arXiv 1312.6114, appendix B)."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).flatten(1).sum(1)


def parts(images: Tensor, scale: int = 1) -> Iterator[slice]:
    """Yield slices of images or latents [n, c, h, w], each small enough for one call.

    Args:
        images: what to cut.
        scale: pixels of an edge that make one of its numbers: 1 for images.
    """
    count = max(1, _PIXELS // (images.shape[-1] * images.shape[-2] * scale**2))
    for start in range(0, len(images), count):
        yield slice(start, start + count)


@torch.no_grad()
def encode(model: Model, data: Any, *, split: str = "shown", size: int | None = None, scaled: bool = False) -> Tensor:
    """Return the mean latents `[n, latent channels, h/f, w/f]` of data as `Model.evaluate` takes it: float32, CPU.

    `split`: "shown" is what the data have for evaluation, all of them where they have no splits of their own; `scaled`:
    shifted and scaled as latent diffusion models want them (the configuration's `scaling_factor`).
    """
    images = read(model, data, split, size)
    latents = torch.cat([posterior(model, images[part])[0].cpu() for part in parts(images)])
    shift, scale = _scaling(model)
    return (latents - shift) * scale if scaled else latents


@torch.no_grad()
def decode(model: Model, latents: Tensor, *, scaled: bool = False) -> Tensor:
    """Return images [n, c, h, w] in [0, 1] of latents as `encode` returns them: float32, on the CPU."""
    shift, scale = _scaling(model)
    if scaled:
        latents = latents / scale + shift
    factor = files.factor(model.module.config)
    images = torch.cat([reconstruction(model, latents[part]).cpu() for part in parts(latents, factor)])
    return (images / 2 + 0.5).clamp(0, 1)


def _scaling(model: Model) -> tuple[float, float]:
    config = model.module.config
    return getattr(config, "shift_factor", None) or 0.0, config.scaling_factor


def save(model: Model, folder: Path, state_dict: dict[str, Tensor]) -> bool:
    """Write config.json and the weights as diffusers' `save_pretrained` lays them out, the KL weight with them."""
    extra = {files.KL_WEIGHT: files.kl_weight(model.entry)}
    save_library_model(model.module, Path(folder), state_dict, extra)
    return True
