"""Adapters of other kinds: weights, mixed batches and merging work as for LoRA."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import zoo
from zoo.errors import AdapterError
from zoo.weights.walk import managed_weights

from .helpers import Net, error, out, stirred

KINDS: dict[str, Any] = {
    "dora": zoo.LoRA(rank=2, dora=True, targets=["fc", "conv", "embed"]),
    "loha": zoo.LoHa(rank=2, targets=["fc", "conv"]),
    "lokr": zoo.LoKr(rank=2, targets=["fc", "raw"]),
    "full": zoo.Full(targets=["fc.weight", "norm.weight", "conv"]),
    "saved": zoo.LoRA(rank=2, targets=["conv"], modules_to_save=["fc"], bias="all"),
    "pissa": zoo.LoRA(rank=2, init="pissa", targets=["fc", "raw"]),
}


def state(model: zoo.Model, **weights: float) -> dict[str, Tensor]:
    model.activate(*weights, weights=list(weights.values()))
    return {name: tensor.double() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [None, 4])
def test_weights_scale_the_whole_effect_of_any_kind(kind: str, bits: int | None) -> None:
    model, x = stirred(Net(), {"k": KINDS[kind], "a": zoo.LoRA(2, targets="all")}, bits=bits, size=0.5)
    base, whole = state(model), state(model, k=1.0)
    plain = out(model, x)
    for weight in (0.3, -0.5, 1.5):
        got = state(model, k=weight)
        assert any(not torch.equal(tensor, base[name]) for name, tensor in whole.items())
        for name, tensor in whole.items():
            if torch.equal(tensor, base[name]):
                assert torch.equal(got[name], base[name])
                continue
            wanted = base[name] + weight * (tensor - base[name])
            assert error(got[name], wanted) < 1e-6, name
        dense = Net().eval()
        dense.load_state_dict({name: tensor.float() for name, tensor in got.items()})
        assert error(out(model, x), out(dense, x)) < 1e-5
        assert error(out(model, x), plain) > 1e-3
    model.activate("k", weights=[0.3])
    model(x).square().sum().backward()
    half = {name: p.grad.clone() for name, p in model.trainable_parameters()}
    assert half
    assert all(gradient.isfinite().all() for gradient in half.values())
    model.activate("k", weights=[0])
    assert all(torch.equal(tensor.double(), base[name]) for name, tensor in model.state_dict().items())
    rows = ["k", None, {"k": 0.3}, "a"]
    mixed = out(model, x, adapters=rows)
    for n, weights in enumerate(({"k": 1.0}, {}, {"k": 0.3}, {"a": 1.0})):
        model.activate(*weights, weights=list(weights.values()))
        assert error(mixed[n], out(model, x[n : n + 1])[0]) < 1e-5
    model.activate("a", "k", weights=(0.5, 0.3))
    expected, before = out(model, x), {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    model.merge()
    assert error(out(model, x), expected) < 1e-5
    model.unmerge()
    model.merge(bits=8)
    assert 0 < error(out(model, x), expected) < 0.5
    model.unmerge()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.module.state_dict().items())
    assert torch.equal(out(model, x), expected)


def test_one_that_goes_by_the_base_is_not_left_on_another_base() -> None:
    model, x = stirred(Net(), {"d": KINDS["dora"], "f": KINDS["full"], "a": zoo.LoRA(2, targets=["fc"])})
    model.activate("f", "d", "a")
    expected = out(model, x)
    with pytest.raises(AdapterError, match=r"conv\.weight: adapter 'd' depends on the base, which merging f"):
        model.merge("f")
    with pytest.raises(AdapterError, match=r"fc\.weight: adapter 'd' depends on the base, which merging a"):
        model.merge("a", bits=4)
    assert model.active == ("f", "d", "a")
    assert torch.equal(out(model, x), expected)
    copied = copy.deepcopy(model)
    model.merge()
    assert error(out(model, x), expected) < 1e-5
    copied.activate("d", "a", weights=(0.0, 1.0))  # weight 0: it does not depend on the base
    copied.merge("a")
    assert managed_weights(copied.module)["fc.weight"].merged is not None
