"""Replacing a module's parameters by managed weights and restoring them, names and order included."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.errors import WeightError
from zoo.weights.lazy_weight import LazyWeight
from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.parameters import (
    find_parameter,
    plain_parameters,
    replace_parameter,
    restore_parameter,
    save_pretrained,
    set_parameter,
)
from zoo.weights.walk import TiedGroup, library_modules, managed_weights, parameter_ref, tied_groups

BITS = [None, 8, 4]


class Net(nn.Module):
    """A tied weight, a layer under two names, a parameter of its own, and buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(3, 4))
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.block = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.again = self.block
        self.rnn = nn.LSTM(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.again(self.second(torch.tanh(self.block(self.first(x)))))
        return self.rnn(y)[0] @ self.scale.t()

    def save_pretrained(self, folder: Any, **options: Any) -> None:
        torch.save(self.state_dict(), folder)


def wrapped(bits: int | None = None) -> zoo.Model:
    model = zoo.wrap(Net().eval(), bits=bits, lora=zoo.LoRA(rank=2, targets="all"))
    with torch.no_grad():
        for _, factor in model.trainable_parameters():
            factor.normal_(std=0.2)
    return model


@pytest.mark.parametrize("bits", BITS)
def test_places_and_names_are_those_of_the_module(bits: int | None) -> None:
    plain, model = Net(), wrapped(bits)
    expected = {name for name, _ in plain.named_parameters(remove_duplicate=False)}
    for module in (plain, model.module):
        assert {ref.name for group in tied_groups(module) for ref in group.refs} == expected
        assert len(tied_groups(module)) == len(list(plain.parameters()))
        assert [path for path, _ in library_modules(module)] == [path for path, _ in plain.named_modules()]
    assert set(model.state_dict()) == set(plain.state_dict())
    plain.eval().load_state_dict(model.state_dict())
    x = torch.randn(5, 4)
    assert torch.allclose(plain(x), model.module(x), atol=1e-5)
    (tied,) = [group.refs for group in tied_groups(model.module) if group.name == "first.weight"]
    assert [ref.name for ref in tied] == ["first.weight", "second.weight"]
    (shared,) = [group.refs for group in tied_groups(model.module) if group.name == "block.0.weight"]
    assert [ref.name for ref in shared] == ["block.0.weight", "again.0.weight"]


@pytest.mark.parametrize("bits", BITS)
def test_each_tensor_is_registered_once(bits: int | None) -> None:
    model = wrapped(bits)
    count = sum(isinstance(module, ManagedWeight) for _, module in model.module.named_modules(remove_duplicate=False))
    assert count == len(managed_weights(model.module)) + 1  # the layer with two names, as in the library
    assert "first.weight_store" in dict(model.module.named_modules())
    assert not hasattr(model.module.second, "weight_store")


@pytest.mark.parametrize("bits", BITS)
def test_parameters_are_found_by_name(bits: int | None) -> None:
    module = wrapped(bits).module
    assert module.get_parameter("first.weight") is module.get_parameter("second.weight")
    assert isinstance(module.get_parameter("scale"), LazyWeight)
    assert module.get_parameter("first.bias") is module.first.bias
    assert find_parameter(module, "rnn.weight_ih_l0") is module.rnn.weight_ih_l0
    with pytest.raises(AttributeError):
        module.get_parameter("first.nothing")


def test_the_order_comes_back_whatever_the_order_of_leaving() -> None:
    module = Net()
    names = [name for name, _ in module.named_parameters()]
    held = {group.name: group for group in tied_groups(module)}
    before = dict(module.named_parameters())
    chosen = ["rnn.weight_hh_l0", "scale", "first.weight", "rnn.weight_ih_l0", "block.0.weight"]
    for name in chosen:
        replace_parameter(held[name])
    for name in reversed(chosen[1:]):
        restore_parameter(held[name], before[name])
    assert list(managed_weights(module)) == ["rnn.weight_hh_l0"]
    restore_parameter(held[chosen[0]], before[chosen[0]])
    assert [name for name, _ in module.named_parameters()] == names
    assert all(parameter is before[name] for name, parameter in module.named_parameters())
    assert module.second.weight is module.first.weight
    assert not any(key.startswith("_zoo") for layer in module.modules() for key in vars(layer))


@pytest.mark.parametrize("bits", BITS)
def test_plain_parameters_for_a_while(bits: int | None, tmp_path: Any) -> None:
    model = wrapped(bits)
    module, x = model.module, torch.randn(5, 4)
    before, state = module(x), model.state_dict()
    held = managed_weights(module)
    with plain_parameters(module):
        assert not managed_weights(module)
        assert set(module.state_dict()) == set(state)
        assert torch.allclose(module(x), before, atol=1e-5)
    assert managed_weights(module) == held
    assert torch.equal(module(x), before)
    with pytest.raises(ZeroDivisionError), plain_parameters(module):
        raise ZeroDivisionError
    assert managed_weights(module) == held
    assert torch.equal(module(x), before)

    module.train()
    save_pretrained(module, tmp_path / "state.pt")
    module.save_pretrained(tmp_path / "same.pt")
    assert all(layer.training for layer in module.modules())
    module.eval()
    for name in ("state.pt", "same.pt"):
        saved = torch.load(tmp_path / name, weights_only=True)
        assert saved.keys() == state.keys()
        assert all(torch.equal(saved[key], state[key]) for key in state)
    module.save_pretrained(tmp_path / "given.pt", state_dict=state)
    assert torch.equal(module(x), before)


def test_set_parameter_reaches_every_place() -> None:
    module = Net()
    group = next(group for group in tied_groups(module) if group.name == "first.weight")
    made = set_parameter(group, torch.zeros(4, 4))
    assert module.first.weight is module.second.weight is made
    assert [ref.name for group in tied_groups(module) for ref in group.refs].count("second.weight") == 1


def test_a_name_that_is_taken_is_an_error() -> None:
    layer = nn.Linear(3, 3)
    layer.weight_store = 3
    with pytest.raises(WeightError, match="already has something called 'weight_store'"):
        replace_parameter(TiedGroup(layer.weight, [parameter_ref("", layer, "weight")]))
    assert isinstance(layer.weight, nn.Parameter)


def test_a_tied_weight_whose_owner_left_is_noticed() -> None:
    model = wrapped(4)
    model.module.first = nn.Linear(4, 4)
    with pytest.raises(WeightError, match=r"second\.weight"):
        model.state_dict()


@pytest.mark.parametrize("bits", BITS)
def test_unloading_leaves_a_module_of_the_library(bits: int | None) -> None:
    model = wrapped(bits)
    x = torch.randn(5, 4)
    model.merge()
    merged = model.module(x)
    module = model.unload()
    plain = Net()
    assert [n for n, _ in module.named_parameters()] == [n for n, _ in plain.named_parameters()]
    assert list(module.state_dict()) == list(plain.state_dict())
    assert not any("zoo" in type(value).__module__ for layer in module.modules() for value in vars(layer).values())
    assert torch.allclose(module(x), merged, atol=1e-5)
    assert module.second.weight is module.first.weight
