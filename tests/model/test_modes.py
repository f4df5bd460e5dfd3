"""What of a zoo.Model trains, in which mode its verbs run, and the mode they leave."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import zoo
from zoo.errors import TuningError
from zoo.plugin import hooks

from .helpers import Net, out, perturb, same


def test_what_can_train(net: Net, ids: Tensor) -> None:
    model = zoo.wrap(copy.deepcopy(net))
    assert [name for name, _ in model.trainable_parameters()] == [name for name, _ in net.named_parameters()]
    quantized = zoo.wrap(copy.deepcopy(net), bits=4)
    with pytest.raises(TuningError, match="nothing can train: add one with lora= or add_adapter"):
        quantized.trainable_parameters()
    quantized.add_adapter("a", zoo.LoRA(rank=2, targets=["fc"]))
    quantized.add_adapter("b", zoo.LoRA(rank=2, targets=["conv"]))
    assert len(list(quantized.trainable_parameters())) == 4
    quantized.activate("b")
    assert all("conv" in name for name, _ in quantized.trainable_parameters())
    quantized(ids).sum().backward()
    assert [name for name, p in quantized.module.named_parameters() if p.grad is not None] == [
        name for name, _ in quantized.trainable_parameters()
    ]
    quantized.deactivate()
    with pytest.raises(TuningError, match=r"activate an adapter first, model\.activate"):
        quantized.trainable_parameters()
    quantized.remove_adapter("a")
    quantized.remove_adapter("b")
    with pytest.raises(TuningError):  # a quantized base does not begin to train because its adapters went
        quantized.trainable_parameters()


def test_training_and_evaluating(net: Net, ids: Tensor) -> None:
    model = zoo.wrap(net, lora=zoo.LoRA(rank=2, dropout=0.5))
    perturb(model)
    assert torch.equal(out(model, ids), out(model, ids))
    assert model.train() is model
    assert net.drop.training
    assert not torch.equal(out(model, ids), out(model, ids))
    state = model.state_dict()  # adapters' dropout must not show in it
    assert net.drop.training
    assert same(state, model.eval().state_dict())


def test_the_verbs_of_a_plugin_see_evaluation_mode_and_no_gradients(net: Net, ids: Tensor) -> None:
    import dataclasses

    seen = []
    plugin = ModuleType("zoo_seen")

    def note(model: zoo.Model) -> None:
        seen.append((model.module.training, model.module.drop.training, torch.is_grad_enabled()))

    def sample(model: zoo.Model, request: zoo.SampleRequest) -> zoo.Samples:
        note(model)
        return zoo.Samples(["x"] * request.n, "text")

    def evaluate(model: zoo.Model, data: Any) -> dict[str, float]:
        note(model)
        return {"loss": 1}

    functions: dict[str, Callable[..., Any]] = {
        "sample": sample,
        "evaluate": evaluate,
        "loss": lambda model, batch: batch.sum(),
    }
    for name, hook in functions.items():
        setattr(plugin, name, zoo.hookimpl(hook))
    hooks.reset()
    hooks.register(plugin, "seen")
    try:
        model = zoo.wrap(net, lora=2)
        model.adapter_set.entry = dataclasses.replace(model.entry, plugin="seen")
        model.train()
        net.norm.eval()
        assert len(model.sample(3, seed=1)) == 3
        assert model.evaluate() == {"loss": 1.0}
        assert seen == [(False, False, False)] * 2
        assert net.training
        assert net.drop.training
        assert not net.norm.training
        assert model.loss(torch.ones(3)) == 3
    finally:
        hooks.reset()
