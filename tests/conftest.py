"""What tests share: small modules to adapt, and plugins made on the fly in a temporary folder on `sys.path`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.testing.site import Site, temporary_site


class Mixed(nn.Module):
    """Every kind of layer that PEFT's LoRA adapts, one after the other: ids (n, 12) → (n, 5)."""

    def __init__(self) -> None:
        from transformers.pytorch_utils import Conv1D

        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.conv1d = nn.Conv1d(8, 6, 3, padding=1, stride=2)
        self.conv2d = nn.Conv2d(1, 4, (3, 2), padding=(1, 0))
        self.mix = Conv1D(7, 20)
        self.block = nn.ModuleDict({"fc": nn.Linear(7, 9), "norm": nn.LayerNorm(9)})
        self.fc = nn.Linear(9, 5, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.conv1d(self.embed(ids).transpose(1, 2))  # (n, 6, 6)
        x = self.conv2d(x.unsqueeze(1)).mean(2)  # (n, 4, 5)
        x = self.mix(x.flatten(1))
        x = self.block["norm"](self.block["fc"](x).tanh())  # relu may be dead in a random draw
        return self.fc(x)


@pytest.fixture
def mixed() -> Mixed:
    return Mixed().eval()


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(0, 11, (3, 12))


@pytest.fixture
def perturb() -> Callable[..., None]:
    """Give every factor of every adapter values, so that the adapter does something; modules of zoo's and of PEFT's."""

    def perturb(model: zoo.Model | nn.Module, size: float = 0.2) -> None:
        module = model.module if isinstance(model, zoo.Model) else model
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if ".updates." in name or "lora_" in name:
                    parameter.copy_(size * torch.randn_like(parameter))

    return perturb


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """An empty `Site`; what was installed and imported from it is gone after the test."""
    with temporary_site(tmp_path / "site") as made:
        yield made
