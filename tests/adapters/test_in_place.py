"""In-place operations on the outputs of layers whose weights are managed: every kind, quantized or not, 1-D to 5-D."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

import zoo
from zoo_ia3 import IA3

KINDS: dict[str, zoo.Adapter] = {
    "lora": zoo.LoRA(2, targets="all"),
    "dropout": zoo.LoRA(2, targets="all", dropout=0.2),
    "dora": zoo.LoRA(2, targets="all", dora=True),
    "pissa": zoo.LoRA(2, targets="all", init="pissa"),
    "loha": zoo.LoHa(2, targets="all"),
    "lokr": zoo.LoKr(2, targets="all"),
    "ia3": IA3(targets="all"),
    "full": zoo.Full(targets="all"),
}
LAYERS: dict[str, tuple[Callable[[], nn.Module], list[tuple[int, ...]]]] = {
    "linear": (lambda: nn.Linear(8, 6), [(8,), (5, 8), (2, 5, 8), (2, 3, 5, 8)]),
    "linear, no bias": (lambda: nn.Linear(8, 6, bias=False), [(8,), (5, 8), (2, 5, 8), (2, 3, 5, 8)]),
    "large linear": (lambda: nn.Linear(160, 160), [(1, 2, 160)]),
    "transformers' Conv1D": (lambda: Conv1D(6, 8), [(5, 8), (2, 5, 8), (2, 3, 5, 8)]),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3), [(4, 7), (2, 4, 7)]),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, padding="same"), [(4, 7, 7), (2, 4, 7, 7)]),
    "conv3d": (lambda: nn.Conv3d(4, 6, 3), [(4, 5, 5, 5), (2, 4, 5, 5, 5)]),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3), [(4, 7, 7), (2, 4, 7, 7)]),
    "grouped": (lambda: nn.Conv2d(4, 8, 3, groups=4), [(2, 4, 7, 7)]),
    "bilinear": (lambda: _Bilinear(8, 6), [(5, 8), (2, 5, 8)]),
    "product": (lambda: _Product(8, 6), [(8,), (5, 8), (2, 5, 8), (2, 3, 5, 8)]),
    "embedding": (lambda: _Table(16, 8), [(5,), (2, 5), (2, 3, 5)]),
}


class _Bilinear(nn.Bilinear):
    def __init__(self, size: int, out: int) -> None:
        super().__init__(size, size, out)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, x)


class _Product(nn.Module):
    def __init__(self, size: int, out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size, out))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class _Table(nn.Embedding):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward((x * 5).detach().long() % self.num_embeddings)


@pytest.mark.parametrize("bits", [None, 8, 4])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", LAYERS)
def test_the_output_can_be_changed_in_place(layer: str, kind: str, bits: int | None) -> None:
    make, shapes = LAYERS[layer]
    plain = make()
    model = zoo.wrap(copy.deepcopy(plain), bits=bits, lora=KINDS[kind])
    for _, parameter in model.trainable_parameters():
        nn.init.normal_(parameter, std=0.3)
    plain.load_state_dict(model.state_dict())
    model.train(kind == "dropout")
    for shape in shapes:
        x = torch.randn(shape, requires_grad=True)
        other = x.detach().clone().requires_grad_()
        got, expected = torch.relu_(model(x)), torch.relu_(plain(other))
        if layer != "embedding":
            grad, wanted = torch.autograd.grad(got.sum(), x)[0], torch.autograd.grad(expected.sum(), other)[0]
        else:
            grad, wanted = got.detach(), expected.detach()
        if kind != "dropout":
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(grad, wanted, rtol=1e-4, atol=1e-4)
        with torch.no_grad():
            without, expected = model(x), plain(x)
        if not expected._is_view():  # autograd refuses this for a view made without gradients
            without.mul_(torch.ones((), requires_grad=True))
        assert (without.stride(), without.dtype) == (expected.stride(), expected.dtype)
