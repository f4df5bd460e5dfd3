"""The same layer with the same adapter under PEFT and under zoo."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

import zoo

LAYERS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "Linear": (lambda: nn.Linear(20, 12), lambda: torch.randn(2, 5, 20)),
    "Conv1D": (lambda: Conv1D(12, 20), lambda: torch.randn(2, 5, 20)),
    "Conv1d": (lambda: nn.Conv1d(6, 8, 3, padding=1), lambda: torch.randn(2, 6, 9)),
    "Conv2d": (lambda: nn.Conv2d(6, 8, 3, padding=1, stride=2), lambda: torch.randn(2, 6, 7, 8)),
    "Conv2d 1×1": (lambda: nn.Conv2d(6, 8, 1), lambda: torch.randn(2, 6, 5, 5)),
    "Conv2d groups": (lambda: nn.Conv2d(6, 8, 3, groups=2), lambda: torch.randn(2, 6, 5, 5)),
    "Conv3d": (lambda: nn.Conv3d(4, 6, 3, padding=1), lambda: torch.randn(1, 4, 4, 5, 4)),
    "Embedding": (lambda: nn.Embedding(30, 16), lambda: torch.randint(30, (3, 4))),
}


class Holder(nn.Module):
    """A module that has the layer as a child, because PEFT replaces children."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def pair(name: str, theirs: Any, ours: zoo.Adapter) -> tuple[Holder, Holder, Tensor]:
    """Return PEFT's layer, ours and an input: one layer under PEFT's configuration and under zoo's.

    The adapters have their initial values.
    """
    import peft

    make, draw = LAYERS[name]
    layer = make()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(0.5 * torch.randn_like(parameter))  # transformers' Conv1D starts with a bias of zero
    mine = Holder(copy.deepcopy(layer))
    zoo.wrap(mine, lora=ours)
    return peft.inject_adapter_in_model(theirs, Holder(copy.deepcopy(layer))), mine, draw()


def update_of(holder: Any) -> Any:
    """Return the only update of the layer's weight."""
    (update,) = holder.layer.weight._zoo_store.updates.values()
    return update


def peft_parameters(holder: Any) -> dict[str, nn.Parameter]:
    """Return PEFT's trained parameters by their names without the adapter's: `lora_A.weight`, `hada_w1_a`."""
    return {
        name.replace(".default", ""): parameter
        for name, parameter in holder.layer.named_parameters()
        if ".default" in name
    }


def error(found: Tensor | None, expected: Tensor | None) -> float:
    """Return the largest absolute difference, relative to the largest expected value, which must not be zero."""
    assert found is not None
    assert expected is not None
    assert found.shape == expected.shape, (found.shape, expected.shape)
    largest = expected.abs().max().item()
    assert largest > 0, "the reference is zero: the test would prove nothing"
    return (found.double() - expected.double()).abs().max().item() / largest
