"""Buffers that a module computes on its parameters' device are real after loading, and no parameter is made for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import zoo
from zoo.loading.buffers import make_real
from zoo.loading.empty import meta_parameters
from zoo.plugin import hooks
from zoo.weights.walk import index_module


class Masked(nn.Module):
    """A mask made where the weight is, a table of the weight's values, and a shared weight."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 4)
        self.two = nn.Linear(4, 4)
        self.two.weight = self.one.weight
        device, dtype = self.one.weight.device, self.one.weight.dtype
        self.register_buffer("mask", torch.ones(4, 4, device=device, dtype=dtype).tril(), persistent=False)
        self.register_buffer("plain", torch.arange(4.0), persistent=False)
        self.register_buffer("of_values", self.one.weight.detach().abs(), persistent=False)


def test_what_can_be_computed_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "construct", lambda entry: Masked())
    with meta_parameters():
        module = Masked()
    assert module.mask.is_meta
    make_real(zoo.Entry("masked", None), index_module(module))
    assert torch.equal(module.mask, torch.ones(4, 4).tril())
    assert type(module.mask) is torch.Tensor
    assert torch.equal(module.plain, torch.arange(4.0))
    assert module.of_values.is_meta  # reported when the module has been filled
    assert module.one.weight is module.two.weight
    assert module.one.weight.is_meta


SWIN = {"img_size": 64, "window_size": 4, "embed_dim": 24, "depths": (2,), "num_heads": (2,)}
HYBRID = {"img_size": 64, "depth": 1}


@pytest.mark.parametrize(
    ("name", "arguments"), [("swin_tiny_patch4_window7_224", SWIN), ("vit_tiny_r_s16_p8_224", HYBRID)]
)
def test_timm_from_a_folder(name: str, arguments: dict[str, object], tmp_path: Path) -> None:
    import timm

    module = timm.create_model(name, num_classes=3, **arguments).eval()
    config = {"num_classes": 3, "model_args": arguments}
    timm.models.save_for_hf(module, str(tmp_path), model_config=config, safe_serialization=True)
    assert json.loads((tmp_path / "config.json").read_text())["architecture"] == name
    model = zoo.load(str(tmp_path))
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(model.module(images), module(images))
    zoo.load(str(tmp_path), bits=4, lora=2)
