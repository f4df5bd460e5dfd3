"""`zoo.wrap`: modules that are in memory already."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.errors import PluginError, ZooError

from .tiny import Tiny, out

pytestmark = pytest.mark.usefixtures("tiny_plugin")


def test_wrap_leaves_the_module_as_it_was_when_it_refuses(module: Tiny, ids: Tensor) -> None:
    before, names = out(module, ids), [(n, id(p), p.requires_grad) for n, p in module.named_parameters()]
    for options in (
        {"bits": 3},
        {"lora": zoo.LoRA(targets=["nothing"])},
        {"bits": 4, "lora": {"a": 2, "b": 0}},
        {"bits": 4, "lora": "/nowhere/at/all"},
        {"bits": 4, "lora": {"a": 2, "b.c": 2}},
    ):
        with pytest.raises(ZooError):
            zoo.wrap(module, **options)
        assert [(n, id(p), p.requires_grad) for n, p in module.named_parameters()] == names
        assert torch.equal(out(module, ids), before)
        assert "get_parameter" not in vars(module)


def test_wrap_takes_modules_once(module: Tiny) -> None:
    for wrong in (3, Tiny, {"a": module}, module.fc.weight):
        with pytest.raises(ZooError, match=r"expected a torch\.nn\.Module"):
            zoo.wrap(wrong)  # type: ignore[arg-type]
    zoo.wrap(module, lora=2)
    for options in ({}, {"bits": 4}, {"lora": 2}):
        with pytest.raises(ZooError, match="managed already"):
            zoo.wrap(module, **options)  # type: ignore[arg-type]


def test_wrap_says_what_needs_a_plugin(module: Tiny) -> None:
    model = zoo.wrap(module, lora=2)
    for verb in (lambda: model.sample(), lambda: model.loss(None), lambda: model.evaluate()):
        with pytest.raises(PluginError, match="has no plugin"):
            verb()


def test_wrap_of_a_module_without_weights() -> None:
    model = zoo.wrap(nn.ReLU(), bits=4)
    assert model.footprint().parameters == 0
    with pytest.raises(zoo.AdapterError, match="matches no weight"):
        model.add_adapter("a", 2)


def test_frozen_parameters_stay_frozen_and_others_train_again(module: Tiny) -> None:
    module.fc.requires_grad_(False)
    trains = {name: parameter.requires_grad for name, parameter in module.named_parameters()}
    for bits in (None, 4, 16):
        model = zoo.wrap(copy.deepcopy(module), bits=bits, lora=2)
        assert all("updates" in name for name, _ in model.trainable_parameters())
        plain = model.unload()
        assert {name: parameter.requires_grad for name, parameter in plain.named_parameters()} == trains
