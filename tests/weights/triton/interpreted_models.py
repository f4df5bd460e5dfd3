"""Run by `test_triton.py` as `interpreted.py`: layers whose products take the kernels, against torch's path."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.weights.triton import fused
from zoo.weights.triton.paths import interpreting, kernel_path, torch_only

DEVICE = torch.device("cpu" if interpreting() else "cuda", None if interpreting() else 0)
LARGEST = 5e-6


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The operators that have run."""
    assert kernel_path(DEVICE).name == "triton"
    used: list[str] = []
    for name in ("product", "unpack", "add_low_rank"):
        real = getattr(fused, name)

        def noted(*args: object, name: str = name, real=real) -> Tensor | None:  # type: ignore[no-untyped-def]
            found = real(*args)
            used.append(name) if found is not None else None
            return found

        monkeypatch.setattr(fused, name, noted)
    return used


class Products(nn.Module):
    """A linear layer and one of transformers' `Conv1D`, whose weight is (inputs, outputs)."""

    def __init__(self) -> None:
        from transformers.pytorch_utils import Conv1D

        super().__init__()
        self.first, self.second = nn.Linear(256, 258), Conv1D(256, 258)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


def off(mine: list[Tensor], theirs: list[Tensor]) -> float:
    """Return the largest difference, relative to the norm of what torch computes."""
    return max(
        float((one - other).detach().norm() / other.detach().norm()) for one, other in zip(mine, theirs, strict=True)
    )


def adapted(module: nn.Module, bits: int) -> nn.Module:
    model = zoo.wrap(module.to(DEVICE), bits=bits, lora=zoo.LoRA(rank=3, targets="all"))
    for _, factor in model.trainable_parameters():
        nn.init.normal_(factor, std=0.1)
    return model.module


def results(module: nn.Module, x: Tensor) -> list[Tensor]:
    """Return the output without and with a graph, and the gradients of x and of the factors."""
    x = x.detach().requires_grad_()
    with torch.no_grad():
        first = module(x)
    y = module(x)
    factors = [one for one in module.parameters() if one.requires_grad]
    return [first, y, *torch.autograd.grad(y.square().sum(), [x, *factors])]


@pytest.mark.parametrize(("rows", "bits"), [(1, 4), (1, 8), (6, 4), (6, 8), (270, 4)])
def test_products(rows: int, bits: int, used: list[str]) -> None:
    # In float32 an update is folded into the weight for many rows.
    dtype = torch.float32 if rows < 100 else torch.float16
    module, x = adapted(Products().to(dtype), bits), torch.randn(rows, 1, 256, device=DEVICE, dtype=dtype)
    mine = results(module, x)
    expected = {"product"} if rows < 100 else {"unpack", "add_low_rank"}
    assert expected <= set(used), used
    with torch_only():
        used.clear()
        theirs = results(module, x)
    assert used == []
    assert off(mine, theirs) < (LARGEST if rows < 100 else 3e-3)


@pytest.mark.parametrize("bits", [4, 8])
def test_convolution_channels_last(bits: int, used: list[str]) -> None:
    conv = adapted(nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.Conv2d(16, 4, 3)), bits)
    x = torch.randn(2, 8, 6, 6, device=DEVICE).contiguous(memory_format=torch.channels_last)
    mine = results(conv, x)
    assert "unpack" in used
    with torch_only():
        theirs = results(conv, x)
    assert off(mine, theirs) < LARGEST


def test_second_derivatives_take_torchs_path() -> None:
    module, x = adapted(Products(), 4), torch.randn(3, 256, device=DEVICE)

    def penalty() -> list[Tensor]:
        y = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(module(y).square().sum(), y, create_graph=True)
        return list(torch.autograd.grad(slope.square().sum(), [p for p in module.parameters() if p.requires_grad]))

    mine = penalty()
    with torch_only():
        theirs = penalty()
    assert off(mine, theirs) < 2e-5


def test_compiled_whole() -> None:
    module, x = adapted(Products(), 4), torch.randn(5, 256, device=DEVICE)
    expected = results(module, x)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    assert off(results(compiled, x), expected) < LARGEST
