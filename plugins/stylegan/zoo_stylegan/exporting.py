"""The call that an exported file makes: a latent and its class in, a picture out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from zoo import ForwardPass

if TYPE_CHECKING:
    from torch import Tensor, nn

    from zoo import Model


def forward_pass(model: Model, count: int, generator: torch.Generator) -> ForwardPass:
    """Return the call of the generator with random latents, with classes where it takes them."""
    config = model.module.config
    inputs = {"z": torch.randn(count, config["z_dim"], generator=generator)}
    if config["c_dim"]:
        inputs["labels"] = torch.randint(config["c_dim"], (count,), generator=generator)
    return ForwardPass(inputs, pictures)


def pictures(module: nn.Module, **inputs: Tensor) -> dict[str, Tensor]:
    """Return images [n, c, h, w], about [-1, 1], without truncation, with the network's own noise."""
    return {"images": module.generator(**inputs)}
