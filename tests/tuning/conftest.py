"""A model with just what the tuning loop reads, on data and a loss that draw from every global generator."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn


class Fake:
    """A small regression whose batches and loss are noisy, through Python's, NumPy's and torch's generators."""

    def __init__(self, seed: int = 0, noise: float = 0.1) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.module = nn.Sequential(nn.Linear(4, 8), nn.Dropout(noise), nn.Tanh(), nn.Linear(8, 2)).eval()
        for parameter in self.module.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
        self.module[0].bias.requires_grad_(False)
        self.target = torch.randn(4, 2, generator=torch.Generator().manual_seed(7))
        self.noise = noise
        self.device = torch.device("cpu")
        self.seen: list[float] = []
        self.spoil: dict[int, float] = {}  # batch number -> what its loss is multiplied by
        self.raise_at: dict[int, BaseException] = {}
        self.calls = 0

    def trainable_parameters(self):
        return [(name, p) for name, p in self.module.named_parameters() if p.requires_grad]

    def train(self):
        self.module.train()
        return self

    def eval(self):
        self.module.eval()
        return self

    def batches(self, data=None, *, batch_size, split="train", seed=0) -> Iterator[dict[str, torch.Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            x = torch.randn(batch_size, 4, generator=generator)
            x += self.noise * (torch.randn(()) + random.gauss(0, 1) + np.random.randn())  # noqa: NPY002
            yield {"x": x, "y": torch.tanh(x @ self.target)}
            if data is not None and not isinstance(data, str):
                return

    def loss(self, batch):
        self.calls += 1
        self.seen.append(float(batch["x"].sum()))
        if self.calls in self.raise_at:
            raise self.raise_at[self.calls]
        jitter = random.random() + np.random.rand() + torch.rand(())  # noqa: NPY002
        loss = (self.module(batch["x"]) - batch["y"]).square().mean()
        return loss * (1 + self.noise * jitter) * self.spoil.get(self.calls, 1.0)

    def count(self, batch) -> float:
        return 1.0

    def values(self) -> dict[str, torch.Tensor]:
        return {name: tensor.clone() for name, tensor in self.module.state_dict().items()}


@pytest.fixture
def fake():
    """The class: `fake()` makes a model, the same one each time."""
    return Fake


@pytest.fixture(autouse=True)
def ctrl_c() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt even where it was ignored when the tests began, as by a shell's `&`."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
