"""The call that an exported file makes: pictures in, logits out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from zoo import ForwardPass

from .data import preprocessing

if TYPE_CHECKING:
    from torch import Tensor, nn

    from zoo import Model


def forward_pass(model: Model, count: int, generator: torch.Generator) -> ForwardPass:
    """Return the call with pictures of noise, preprocessed as the model takes them."""
    wanted = preprocessing(model)
    return ForwardPass({"images": torch.randn(count, wanted.channels, *wanted.size, generator=generator)}, scores)


def scores(module: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Return logits [n, classes] of images [n, c, h, w]."""
    output = module(images)
    return {"logits": getattr(output, "logits", output)}
