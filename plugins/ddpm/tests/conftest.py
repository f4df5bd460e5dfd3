"""Checkpoints as diffusers writes them: tiny, random, in every layout that this plugin reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel

TINY = {
    "sample_size": 8,
    "in_channels": 3,
    "out_channels": 3,
    "layers_per_block": 1,
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 4,
    "attention_head_dim": 8,
}

Make = Callable[..., tuple[UNet2DModel, Path]]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A random U-Net, and the folder where it and its scheduler were saved."""

    def made(scheduler: dict[str, Any] | None = None, **config: Any) -> tuple[UNet2DModel, Path]:
        unet = UNet2DModel(**{**TINY, **config}).eval()
        with torch.no_grad():  # biases and norms start as constants, which would hide a swapped pair
            for parameter in unet.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        folder = tmp_path / "checkpoint"
        unet.save_pretrained(folder)
        DDPMScheduler(**{"num_train_timesteps": 100, **(scheduler or {})}).save_pretrained(folder)
        return unet, folder

    return made
