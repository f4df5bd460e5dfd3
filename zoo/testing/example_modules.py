"""Small modules to try quantizers and adapter kinds on: every sort of weight in as few values as possible."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from zoo.model import Model

TOKENS = 50


class Mixed(nn.Module):
    """An embedding, a convolution, a linear layer and one of a single output: tokens [n, 16] → [n, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, 32)
        self.convolution = nn.Conv2d(4, 16, 3)
        self.linear = nn.Linear(16, 64)
        self.head = nn.Linear(64, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return one number for each row of tokens."""
        images = self.embedding(tokens).view(len(tokens), 4, 16, 8)  # [n, 16, 32] → [n, 4, 16, 8]
        features = F.gelu(self.convolution(images)).mean((2, 3))  # [n, 16]
        return self.head(F.gelu(self.linear(features)))


class Linears(nn.Module):
    """Linear layers alone: tokens [n, 16] → [n, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 64)
        self.second = nn.Linear(64, 64)
        self.head = nn.Linear(64, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return one number for each row of tokens."""
        return self.head(F.gelu(self.second(F.gelu(self.first(tokens / TOKENS)))))


def made(kind: type[nn.Module], dtype: torch.dtype = torch.float32) -> nn.Module:
    """Return a module of this class in evaluation mode, with the same weights at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind().to(dtype).eval()


def tokens(n: int = 8) -> Tensor:
    """Return int64 tokens [n, 16], the same at every call."""
    return torch.randint(TOKENS, (n, 16), generator=torch.Generator().manual_seed(1))


def output(model: Model) -> Tensor:
    """Return the module's output [8, 1] for `tokens()`, without a graph."""
    with torch.no_grad():
        return model.module(tokens())


def error(model: Model) -> Tensor:
    """Return a loss to train the module with: the mean squared distance from fixed targets."""
    target = torch.randn(8, 1, generator=torch.Generator().manual_seed(2))
    return (model.module(tokens()) - target).square().mean()


def gaussian(*shape: int) -> Tensor:
    """Return a weight of this shape, drawn from a normal distribution, the same at every call."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))
