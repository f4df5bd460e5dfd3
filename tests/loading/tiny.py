"""A small architecture, folders with its weights, and what loading them should give."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import zoo
from zoo.errors import CheckpointError, ZooError


class Tiny(nn.Module):
    """Tied weights, persistent and other buffers, running means: (n, 8) ids → (n, 8, 10)."""

    def __init__(self, width: int = 64, tie: bool = True) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, width)
        self.conv = nn.Conv1d(width, width, 3, padding=1)
        self.bn = nn.BatchNorm1d(width)
        self.fc = nn.Linear(width, width)
        self.head = nn.Linear(width, 10, bias=False)
        if tie:
            self.head.weight = self.embed.weight
        self.register_buffer("places", torch.arange(8), persistent=False)
        self.register_buffer("shift", torch.zeros(width))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed((ids + self.places) % 10)
        x = self.bn(self.conv(x.transpose(1, 2))).transpose(1, 2) + self.shift
        return self.head(torch.tanh(self.fc(x)))


def fresh(**config: Any) -> Tiny:
    module = Tiny(**config)
    with torch.no_grad():
        for tensor in (*module.parameters(), *(b for b in module.buffers() if b.is_floating_point())):
            tensor.copy_(torch.randn_like(tensor) * 0.2)
        module.bn.running_var.abs_().add_(0.5)
    return module.eval()


def state(module: nn.Module) -> dict[str, Tensor]:
    """Return the content of a checkpoint: tied weights once."""
    return {name: tensor.clone() for name, tensor in module.state_dict().items() if name != "head.weight"}


def put(folder: Path, tensors: dict[str, Tensor], shards: int = 0, **config: Any) -> Path:
    """Write a folder with config.json and the tensors, in one safetensors file or several."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if not shards:
        save_file(tensors, folder / "model.safetensors")
        return folder
    names, index = sorted(tensors), {}
    for number in range(shards):
        shard = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        save_file({name: tensors[name] for name in names[number::shards]}, folder / shard)
        index |= dict.fromkeys(names[number::shards], shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder


@torch.no_grad()
def out(module: Any, ids: Tensor) -> Tensor:
    return module(ids)


def real(model: zoo.Model) -> bool:
    return not any(t.is_meta for t in (*model.module.parameters(), *model.module.buffers()))


def refused(load: Callable[..., Any], match: str, error: type[ZooError] = CheckpointError) -> None:
    with pytest.raises(error, match=match) as caught:
        load()
    assert "\n" not in str(caught.value)
