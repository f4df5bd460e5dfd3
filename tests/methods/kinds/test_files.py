"""Saved adapters of all kinds load unchanged: in zoo on any base, and in PEFT on the unmodified base."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zoo
import zoo_ia3

from .layers import error

CONFIGS: dict[str, Any] = {
    "dora": zoo.LoRA(2, dora=True, targets=["conv", "fc"], bias="lora_only", modules_to_save=["head"]),
    "pissa": zoo.LoRA(2, init="pissa", targets=["conv", "fc"], rank_pattern={"fc": 3}, bias="all"),
    "olora": zoo.LoRA(2, 3, init="olora", rslora=True, targets=["fc", "head"]),
    "loha": zoo.LoHa(2, targets=["conv", "fc"], use_effective_conv2d=True, modules_to_save=["norm"]),
    "lokr": zoo.LoKr(2, targets=["conv", "fc"], decompose_both=True),
    "ia3": zoo_ia3.IA3(targets=["conv", "fc"], feedforward=["fc"], modules_to_save=["head"]),
    "full": zoo.Full(targets=["norm", "bias"]),
}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8)
        self.fc, self.head = nn.Linear(8, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.fc(self.norm(self.conv(x)).mean((2, 3)))))


def moved(model: zoo.Model) -> zoo.Model:
    with torch.no_grad():
        for _, parameter in model.trainable_parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("bits", [None, 4])
@pytest.mark.parametrize("kind", CONFIGS)
def test_saved_and_loaded(kind: str, bits: int | None, tmp_path: Path) -> None:
    import peft

    base, x = Net().eval(), torch.randn(2, 3, 5, 5)
    model = moved(zoo.wrap(copy.deepcopy(base), bits=bits, lora=CONFIGS[kind]))
    model.save_adapter(tmp_path)
    again = zoo.wrap(copy.deepcopy(base), bits=bits, lora=str(tmp_path))
    assert error(again(x), model(x)) < 1e-6
    if "lora" in kind or kind in ("pissa", "full"):
        again.deactivate()
        model.deactivate()
        assert torch.equal(again(x), model(x))
    if kind != "full" and bits is None:
        model.activate("default")
        theirs = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path).eval()
        assert error(model(x), theirs(x)) < 1e-5


def test_a_smaller_one_in_the_place_of_another(tmp_path: Path) -> None:
    base, x = Net().eval(), torch.randn(2, 3, 5, 5)
    model = moved(zoo.wrap(copy.deepcopy(base), lora=zoo.LoRA(3, init="pissa", targets=["fc"])))
    model.swap_adapter("default", zoo.LoRA(2, init="pissa", targets=["fc"]))
    with torch.no_grad():
        for _, parameter in model.trainable_parameters():
            parameter.mul_(1.5)  # the zeros that pad the slot stay zero in training
    assert error(model(x), base(x)) > 1e-3
    model.save_adapter(tmp_path / "swapped")
    again = zoo.wrap(copy.deepcopy(base), lora=str(tmp_path / "swapped"))
    assert error(again(x), model(x)) < 1e-5
