"""Adapters of different kinds together: per sample, swapped, combined."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import zoo
import zoo_ia3
from zoo.errors import AdapterError

from .layers import error

KINDS: dict[str, Any] = {
    "full": zoo.Full(targets=["1", "bias"]),
    "dora": zoo.LoRA(2, dora=True, bias="all"),
    "ia3": zoo_ia3.IA3(targets="all"),
    "loha": zoo.LoHa(2, targets="all", modules_to_save=["1"]),
    "pissa": zoo.LoRA(2, init="pissa"),
    "lora": zoo.LoRA(2),
}


def moved(bits: int | None) -> zoo.Model:
    net = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 4))
    model = zoo.wrap(net, bits=bits, lora=KINDS)
    with torch.no_grad():
        for _, parameter in model.trainable_parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("bits", [None, 4])
def test_each_sample_its_own_kind(bits: int | None) -> None:
    model = moved(bits)
    names = [*KINDS, None]
    x = torch.randn(len(names), 6)
    y = model(x, adapters=names)
    for number, name in enumerate(names):
        model.activate(*([name] if name else []))
        assert error(y[number : number + 1], model(x[number : number + 1])) < 1e-6
    assert len({tuple(row.tolist()) for row in y}) == len(names)


@pytest.mark.parametrize("kind", KINDS)
def test_another_of_the_kind_in_its_place(kind: str) -> None:
    model, x = moved(4), torch.randn(5, 6)
    model.deactivate()
    base = model(x)
    model.activate(kind)
    tensors = {name: one.data_ptr() for name, one in model.trainable_parameters()}
    assert (model(x) - base).abs().max() > 1e-3
    model.swap_adapter(kind, KINDS[kind])  # a fresh one, which changes nothing
    assert error(model(x), base) < 1e-6
    assert {name: one.data_ptr() for name, one in model.trainable_parameters()} == tensors


@pytest.mark.parametrize("kind", ["full", "dora", "ia3", "loha"])
def test_what_is_no_low_rank_product_is_not_combined(kind: str) -> None:
    with pytest.raises(AdapterError, match="is not low-rank: only LoRA combines"):
        moved(None).combine_adapters("both", {"lora": 1.0, kind: 1.0})


def test_pissa_is_combined_as_the_ordinary_lora_that_it_is() -> None:
    model, x = moved(None), torch.randn(5, 6)
    model.activate("lora", "pissa")
    y = model(x)
    model.combine_adapters("both", {"lora": 1.0, "pissa": 1.0}, method="cat")
    model.activate("both")
    assert error(model(x), y) < 1e-5
