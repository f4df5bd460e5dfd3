"""The call that an exported file makes: one denoising step's prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from zoo import ForwardPass

from .conditions import classes, kind_of, width
from .model import image_shape, scheduler

if TYPE_CHECKING:
    from torch import Tensor, nn

    from zoo import Model


def forward_pass(model: Model, count: int, generator: torch.Generator) -> ForwardPass:
    """Return the call with noise at random steps, and with conditions where the U-Net takes them."""
    size, channels = image_shape(model)
    inputs = {
        "sample": torch.randn(count, channels, *size, generator=generator),
        "timestep": torch.randint(scheduler(model.entry).config.num_train_timesteps, (count,), generator=generator),
    }
    match kind_of(model):
        case "classes":
            inputs["class_labels"] = torch.randint(classes(model), (count,), generator=generator)
        case "numbers":
            inputs["class_labels"] = torch.rand(count, generator=generator)
        case "vectors":
            inputs["class_labels"] = torch.randn(count, width(model), generator=generator)
    return ForwardPass(inputs, prediction)


def prediction(module: nn.Module, **inputs: Tensor) -> dict[str, Tensor]:
    """Return what the U-Net predicts of a noisy sample [n, c, h, w]: as a scheduler's `step` takes it."""
    return {"out_sample": module(**inputs).sample}
