"""The call that an exported file makes: a latent in, its picture out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from zoo import ForwardPass

from .model import image_size, latent_shape

if TYPE_CHECKING:
    from torch import Tensor, nn

    from zoo import Model


def forward_pass(model: Model, count: int, generator: torch.Generator) -> ForwardPass:
    """Return the call of the decoder with latents of the prior."""
    shape = latent_shape(model, *image_size(model))
    return ForwardPass({"latents": torch.randn(count, *shape, generator=generator)}, decoded)


def decoded(module: nn.Module, latents: Tensor) -> dict[str, Tensor]:
    """Return images [n, c, h, w], about [-1, 1], of latents [n, latent channels, h/f, w/f]."""
    return {"images": module.decode(latents).sample}
