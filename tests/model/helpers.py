"""A module with every common layer, its adapters, and all that is stored of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import zoo


class Net(nn.Module):
    """Convolutions, linear layers, an embedding whose weight a head shares, dropout: ids (n, 6) → (n, 6, 9)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 64)
        self.conv = nn.Conv1d(64, 64, 3, padding=1)
        self.norm = nn.LayerNorm(64)
        self.drop = nn.Dropout(0.2)
        self.fc = nn.Linear(64, 64)
        self.head = nn.Linear(64, 9, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("shift", torch.randn(64))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.conv(self.embed(ids).transpose(1, 2)).transpose(1, 2) + self.shift
        return self.head(self.fc(self.drop(self.norm(x))).tanh())


@torch.no_grad()
def out(model: Any, ids: Tensor) -> Tensor:
    return model(ids)


@torch.no_grad()
def perturb(model: zoo.Model, size: float = 0.1) -> None:
    for name, parameter in model.module.named_parameters():
        if ".updates." in name:
            parameter.copy_(size * torch.randn_like(parameter))


def held(model: zoo.Model) -> dict[str, Tensor]:
    """All that is stored, bit for bit."""
    return {name: tensor.clone() for name, tensor in model.module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


two = {"a": zoo.LoRA(rank=2, targets=["fc", "embed"]), "b": zoo.LoRA(rank=3, targets=["conv", "fc"], alpha=5)}
