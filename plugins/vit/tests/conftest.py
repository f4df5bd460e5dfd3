"""Repositories as timm and transformers publish them: tiny, random, in every layout that this plugin reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

ARCHITECTURE = "vit_tiny_patch16_224"
TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 7}
FACTS = {
    "tag": "test",
    "fixed_input_size": True,
    "interpolation": "bicubic",
    "crop_pct": 0.8,
    "crop_mode": "center",
    "mean": [0.4, 0.5, 0.6],
    "std": [0.2, 0.25, 0.3],
    "first_conv": "patch_embed.proj",
    "classifier": "head",
}
NAMES = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu"]

Make = Callable[..., tuple[nn.Module, Path]]


def shaken(module: nn.Module) -> nn.Module:
    """Random biases, gains and tokens too: they start as constants, which would hide a swapped pair."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module.eval()


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """make(depth=3, facts={…}, top={…}, file="pytorch_model.bin") → a timm model and its repository."""

    def made(
        architecture: str = ARCHITECTURE,
        facts: dict[str, Any] | None = None,
        top: dict[str, Any] | None = None,
        file: str = "model.safetensors",
        **arguments: Any,
    ) -> tuple[nn.Module, Path]:
        from safetensors.torch import save_file

        arguments = {**(TINY if architecture == ARCHITECTURE else {}), **arguments}
        module = shaken(timm.create_model(architecture, **arguments))
        folder = tmp_path / f"timm-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        size = arguments.get("img_size", 224)
        inner = {"input_size": [arguments.get("in_chans", 3), size, size], "num_classes": module.num_classes, **FACTS}
        config = {
            "architecture": architecture,
            "num_classes": module.num_classes,
            "num_features": module.num_features,
            "model_args": arguments,
            "pretrained_cfg": inner | (facts or {}),
            **(top or {}),
        }
        (folder / "config.json").write_text(json.dumps(config))
        state = module.state_dict()
        torch.save(state, folder / file) if file.endswith(".bin") else save_file(state, folder / file)
        return module, folder

    return made


@pytest.fixture
def make_transformers(tmp_path: Path) -> Make:
    """make_transformers("vit", size={…}, …) → a classifier of transformers and its repository."""

    def made(kind: str = "vit", processor: dict[str, Any] | None = None, **config: Any) -> tuple[nn.Module, Path]:
        from transformers import AutoConfig, AutoModelForImageClassification, ViTImageProcessor

        values = {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 48,
            "image_size": 32,
            "patch_size": 8,
            "id2label": dict(enumerate(NAMES)),
            "label2id": {name: index for index, name in enumerate(NAMES)},
            **config,
        }
        module = shaken(AutoModelForImageClassification.from_config(AutoConfig.for_model(kind, **values)))
        folder = tmp_path / f"transformers-{len(list(tmp_path.iterdir()))}"
        module.save_pretrained(folder)
        ViTImageProcessor(size={"height": 32, "width": 32}, **(processor or {})).save_pretrained(folder)
        return module, folder

    return made


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder of colour pictures of two of the classes, neither of them the first ones, of various shapes."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    for label in ("dog", "cat"):
        folder = tmp_path / "photographs" / label
        folder.mkdir(parents=True)
        for index in range(6):
            shape = (40 + 7 * index, 75 - 5 * index, 3)
            Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)).save(folder / f"{index}.png")
    return tmp_path / "photographs"
