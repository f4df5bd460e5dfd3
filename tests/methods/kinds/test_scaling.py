"""Updates that scale outputs and inputs: layers scale their activations and never form the updated weight."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

import zoo
from zoo.methods.dora import DoRAUpdate
from zoo_ia3 import IA3
from zoo_ia3.update import Scaled

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(12, 7), (5, 3, 12)),
    "linear without bias": (lambda: nn.Linear(12, 7, bias=False), (5, 12)),
    "Conv1D": (lambda: Conv1D(7, 12), (5, 3, 12)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3), (2, 4, 9)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1), (2, 4, 9, 9)),
    "circular conv2d": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (2, 4, 9, 9)),
    "transposed conv2d": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2), (2, 4, 5, 5)),
}
CONFIGS = {
    "DoRA": zoo.LoRA(rank=2, targets="all", dora=True),
    "IA3 of outputs": IA3(targets="all", feedforward=[]),
    "IA3 of inputs": IA3(targets=["0"], feedforward=["0"]),
}


def made(layer: str, kind: str, bits: int | None) -> tuple[zoo.Model, Tensor]:
    build, shape = LAYERS[layer]
    model = zoo.wrap(nn.Sequential(build()), bits=bits, lora=CONFIGS[kind])
    with torch.no_grad():
        for _, parameter in model.trainable_parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model, torch.randn(shape)


def results(model: zoo.Model, x: Tensor) -> dict[str, Tensor]:
    x = x.detach().requires_grad_()
    y = model(x)
    y.square().sum().backward()
    found = {"y": y.detach(), "x": x.grad}
    for name, parameter in model.trainable_parameters():
        found[name], parameter.grad = parameter.grad, None
    return found  # type: ignore[return-value]


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-12))


@pytest.mark.parametrize("bits", [None, 4])
@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("layer", LAYERS)
def test_it_is_the_dense_weights_result(
    layer: str, kind: str, bits: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = made(layer, kind, bits)
    dense = copy.deepcopy(model)
    found = results(model, x)
    for update in (DoRAUpdate, Scaled):
        monkeypatch.setattr(update, "scaling", lambda self, weight: None)
    expected = results(dense, x)
    assert found.keys() == expected.keys()
    for name in found:
        assert error(found[name], expected[name]) < 1e-5, name


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("layer", LAYERS)
def test_no_updated_weight_is_formed(layer: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the dense weight was asked for")

    model, x = made(layer, kind, 4)
    for update in (DoRAUpdate, Scaled):
        monkeypatch.setattr(update, "forward", refuse)
    assert results(model, x)["y"].isfinite().all()


@pytest.mark.parametrize("kind", ["DoRA", "IA3 of inputs"])
def test_a_weight_that_is_used_the_other_way_round(kind: str) -> None:
    # x @ W of a Linear's weight: what its layout calls outputs are the product's inputs.
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(12, 7, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.layer.weight

    config = CONFIGS[kind] if kind == "DoRA" else IA3(targets=["layer"], feedforward=["layer"])
    model, x = zoo.wrap(Backwards(), lora=config), torch.randn(5, 7)
    with torch.no_grad():
        for _, parameter in model.trainable_parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        assert error(model(x), x.double() @ model.state_dict()["layer.weight"].double()) < 1e-5


def test_groups_and_weighted_adapters_go_by_the_dense_weight() -> None:
    groups = 2
    model = zoo.wrap(nn.Sequential(nn.Conv2d(4, 6, 3, groups=groups)), lora=CONFIGS["DoRA"])
    x = torch.randn(2, 4, 7, 7)
    with torch.no_grad():
        for _, parameter in model.trainable_parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        state = model.state_dict()
        expected = nn.functional.conv2d(x.double(), state["0.weight"].double(), state["0.bias"].double(), groups=groups)
        assert error(model(x), expected) < 1e-5
        half = zoo.wrap(nn.Sequential(nn.Linear(6, 5)), lora={"a": zoo.LoRA(2, targets="all", dora=True)})
        for _, parameter in half.trainable_parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        half.activate("a", weights=(0.5,))
        x, state = torch.randn(3, 6), {name: value.double() for name, value in half.state_dict().items()}
        assert error(half(x), nn.functional.linear(x.double(), state["0.weight"], state["0.bias"])) < 1e-5
