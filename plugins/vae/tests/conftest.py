"""Checkpoints as diffusers writes them: tiny, random, in every layout that this plugin reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL

TINY = {
    "sample_size": 16,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 2,
    "layers_per_block": 1,
    "block_out_channels": (4, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 4,
}

Make = Callable[..., tuple[AutoencoderKL, Path]]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A random autoencoder, and the folder where it was saved, with a KL weight in its configuration if given."""

    def made(kl_weight: Any = None, **config: Any) -> tuple[AutoencoderKL, Path]:
        vae = AutoencoderKL(**{**TINY, **config}).eval()
        with torch.no_grad():  # biases and norms start as constants, which would hide a swapped pair
            for parameter in vae.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        folder = tmp_path / "checkpoint"
        vae.save_pretrained(folder)
        if kl_weight is not None:
            path = folder / "config.json"
            path.write_text(json.dumps({**json.loads(path.read_text()), "_kl_weight": kl_weight}))
        return vae, folder

    return made
