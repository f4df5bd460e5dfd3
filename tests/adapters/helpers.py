"""A module that uses its weights in every way, adapters with random factors, and their expected effect."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import zoo
from zoo.weights.update import LoRAUpdate, Update
from zoo.weights.walk import managed_weights


class Net(nn.Module):
    """Embedding, convolution, raw parameter in an einsum, tied head: ids (n, 6) → (n, 6, 9)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 16)
        self.conv = nn.Conv1d(16, 12, 3, padding=1)
        self.up = nn.ConvTranspose1d(12, 12, 1)
        self.norm = nn.LayerNorm(12)
        self.fc = nn.Linear(12, 10)
        self.raw = nn.Parameter(torch.randn(10, 16) / 3)
        self.head = nn.Linear(16, 9, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.up(self.conv(self.embed(ids).transpose(1, 2))).transpose(1, 2)
        x = torch.einsum("nti,io->nto", self.fc(self.norm(x)).tanh(), self.raw)
        return self.head(x.tanh())

    @staticmethod
    def draw(n: int = 4, seed: int | None = None) -> Tensor:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return torch.randint(0, 9, (n, 6), generator=generator)


class Gain(Update):
    """An update that is not low-rank: W · gain, of every value."""

    kind = "gain"

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(shape))

    def forward(self, weight: Tensor) -> Tensor:
        return (weight * self.gain).to(weight.dtype)


def stirred(module: nn.Module, lora: Any, *, bits: Any = None, size: float = 0.3) -> tuple[zoo.Model, Tensor]:
    """Return the module with adapters whose factors are all random, and an input."""
    model = zoo.wrap(module.eval(), bits=bits, lora=lora)
    perturb(model, size)
    return model, Net.draw()


@torch.no_grad()
def perturb(model: zoo.Model, size: float = 0.3) -> None:
    for name, parameter in model.module.named_parameters():
        if ".updates." in name:
            parameter.copy_(size * torch.randn_like(parameter))


def delta(update: Any) -> Tensor:
    """Return scale · B @ A in float64, in the weight's own shape, written out unlike in zoo itself."""
    assert isinstance(update, LoRAUpdate)
    A, B = update.A.detach().double(), update.B.detach().double()
    product = torch.einsum("ri,or->io" if update.transposed else "ri,or->oi", A, B)
    return update.scale * product.reshape(update.shape)


def deltas(model: zoo.Model, name: str) -> dict[str, Tensor]:
    """Return every weight's total change by one adapter."""
    return {
        path: delta(store.updates[name])
        for path, store in managed_weights(model.module).items()
        if name in store.updates
    }


def error(found: Any, expected: Any) -> float:
    """Return the relative distance in the 2-norm."""
    found, expected = torch.as_tensor(found).detach().double(), torch.as_tensor(expected).detach().double()
    assert expected.norm() > 0, "the reference is zero: the test would prove nothing"
    return float((found - expected).norm() / expected.norm())


@torch.no_grad()
def out(model: Any, *args: Any, **kwargs: Any) -> Tensor:
    return model(*args, **kwargs)  # type: ignore[no-any-return]
