"""The verbs of zoo.Model for adapters: on and off, merging, unloading, and what stays exactly as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.errors import AdapterError, UnknownNameError

from .helpers import Net, held, out, perturb, same, two


@pytest.mark.parametrize("bits", [None, 4, 8, 16])
def test_several_adapters_add_up_in_any_order(bits: int | None, net: Net, ids: Tensor) -> None:
    model = zoo.wrap(net, bits=bits, lora=two)
    plain = None
    perturb(model)
    weights = {}
    for names in ((), ("a",), ("b",), ("a", "b"), ("b", "a")):
        model.activate(*names)
        assert model.active == names
        weights[names] = model.state_dict()
        if not names:
            plain = out(model, ids)
        else:
            assert not torch.equal(out(model, ids), plain)
    for name in ("fc.weight", "conv.weight", "embed.weight"):
        base, a, b, ab, ba = (weights[names][name] for names in ((), ("a",), ("b",), ("a", "b"), ("b", "a")))
        torch.testing.assert_close(ab - base, (a - base) + (b - base), rtol=0, atol=1e-6)
        torch.testing.assert_close(ab, ba, rtol=0, atol=1e-6)
    model.activate("a", "b")
    one = out(model, ids)
    model.activate("b", "a")
    torch.testing.assert_close(out(model, ids), one, rtol=1e-5, atol=1e-5)
    model.activate("a", "a")
    assert model.active == ("a",)


@pytest.mark.parametrize("bits", [None, 4, 8])
def test_deactivate_restores_the_base_bit_for_bit(bits: int | None, net: Net, ids: Tensor) -> None:
    model = zoo.wrap(net, bits=bits)
    before, stored = out(model, ids), model.state_dict()
    for name, lora in two.items():
        model.add_adapter(name, lora)
    assert torch.allclose(out(model, ids), before, atol=1e-6)  # new ones change nothing
    perturb(model)
    assert not torch.allclose(out(model, ids), before, atol=1e-3)
    model.deactivate()
    assert model.active == ()
    assert torch.equal(out(model, ids), before)
    assert same(model.state_dict(), stored)
    model.activate("b")
    model.remove_adapter("b")
    assert torch.equal(out(model, ids), before)


def test_removing_the_last_adapter_gives_the_parameters_themselves_back(net: Net, ids: Tensor) -> None:
    net.conv.weight.requires_grad_(False)
    before = [(name, id(parameter), parameter.requires_grad) for name, parameter in net.named_parameters()]
    output, keys = out(net, ids), list(net.state_dict())
    model = zoo.wrap(net, lora=two)
    perturb(model)
    model.remove_adapter("a")
    assert tuple(model.adapters) == model.active == ("b",)
    assert all(".updates." in name for name, _ in model.trainable_parameters())
    model.remove_adapter("b")
    assert [(name, id(parameter), parameter.requires_grad) for name, parameter in net.named_parameters()] == before
    assert net.head.weight is net.embed.weight
    assert torch.equal(out(net, ids), output)
    assert list(net.state_dict()) == keys
    assert not model.adapters


@pytest.mark.parametrize("bits", [None, 4, 8, zoo.Quantization(4, "fp4", 256)])
def test_merging_keeps_the_adapter_and_unmerging_the_bits(bits: Any, net: Net, ids: Tensor) -> None:
    model = zoo.wrap(net, bits=bits, lora=two)
    perturb(model)
    before, output = held(model), out(model, ids)
    model.deactivate()
    base = out(model, ids)
    model.activate("a", "b")
    assert (output - base).norm() > 0.01 * base.norm()
    for _ in range(5):
        model.merge()
        assert model.active == ()
        merged = out(model, ids)
        assert (merged - output).abs().max() < (1e-4 if bits else 1e-5) * output.abs().max()
        model.unmerge()
        assert model.active == ("a", "b")
        assert same(held(model), before)
        assert torch.equal(out(model, ids), output)


def test_a_tiny_adapter_is_not_rounded_away_by_merging_into_4_bit(net: Net, ids: Tensor) -> None:
    """Requantizing after the merge loses an update of 1 % of the weight entirely."""
    model = zoo.wrap(net, bits=4, lora=zoo.LoRA(rank=4, targets=["fc"]))
    perturb(model, 0.01)
    model.deactivate()
    base = model.state_dict()["fc.weight"]
    model.activate("default")
    wanted = model.state_dict()["fc.weight"] - base
    assert wanted.norm() < 0.02 * base.norm()
    model.merge()
    assert (model.state_dict()["fc.weight"] - base - wanted).norm() < 1e-3 * wanted.norm()


def test_merging_some_and_what_is_refused_meanwhile(net: Net, ids: Tensor) -> None:
    model = zoo.wrap(net, bits=4, lora=two)
    perturb(model)
    output = out(model, ids)
    model.merge("a")
    assert model.active == ("b",)
    torch.testing.assert_close(out(model, ids), output, rtol=1e-4, atol=1e-4)
    for verb in (lambda: model.activate("a"), lambda: model.merge("a"), lambda: model.remove_adapter("a")):
        with pytest.raises(AdapterError, match="merged"):
            verb()
    model.merge("b", "b")  # twice named, once merged
    torch.testing.assert_close(out(model, ids), output, rtol=1e-4, atol=1e-4)
    with pytest.raises(AdapterError, match="no adapter is active"):
        model.merge()
    model.unmerge()
    assert model.active == ("a", "b")
    assert torch.equal(out(model, ids), output)
    with pytest.raises(AdapterError, match="no adapter is merged"):
        model.unmerge()


def test_unmerging_activates_what_was_active_before(net: Net) -> None:
    model = zoo.wrap(net, lora=two)
    model.activate("b")
    model.merge("a")
    assert model.active == ("b",)
    model.unmerge()
    assert model.active == ("b",)


@pytest.mark.parametrize("bits", [None, 4])
def test_unload_leaves_the_librarys_own_module(bits: int | None, net: Net, ids: Tensor, tmp_path: Path) -> None:
    keys = list(net.state_dict())
    model = zoo.wrap(net, bits=bits, lora=two)
    perturb(model)
    model.activate("a")
    model.merge()
    merged = out(model, ids)
    plain = model.unload()
    assert torch.equal(out(plain, ids), merged)
    assert plain is net
    assert [type(parameter) for parameter in plain.parameters()] == [nn.Parameter] * len(list(Net().parameters()))
    assert all(parameter.requires_grad for parameter in plain.parameters())
    assert list(plain.state_dict()) == keys
    assert plain.head.weight is plain.embed.weight
    assert not {"get_parameter", "save_pretrained"} & set(vars(plain))
    assert (model.adapters, model.active, model.scheme) == ({}, (), None)
    torch.save(plain, tmp_path / "module.pt")
    zoo.wrap(plain, bits=4, lora=2)


@pytest.mark.parametrize("bits", [None, 4])
def test_unload_keeps_what_was_merged(bits: int | None, net: Net, ids: Tensor) -> None:
    model = zoo.wrap(net, bits=bits, lora=two)
    perturb(model)
    model.merge()
    merged = out(model, ids)
    assert torch.equal(out(model.unload(), ids), merged)


def test_names_that_are_not_known(net: Net) -> None:
    model = zoo.wrap(net, lora={"letters": 2})
    for verb in (model.activate, model.merge, model.remove_adapter):
        with pytest.raises(
            UnknownNameError, match=r"no adapter 'lettres'; there are letters\. Did you mean 'letters'\?"
        ):
            verb("lettres")
    assert model.active == ("letters",)
    with pytest.raises(AdapterError, match="there is an adapter 'letters' already"):
        model.add_adapter("letters")
    with pytest.raises(TypeError):
        model.adapters["x"] = zoo.LoRA()  # type: ignore[index]


def test_repr(net: Net) -> None:
    model = zoo.wrap(net, bits=4, lora=two)
    assert repr(model) == "zoo.Model('Net', Net, cpu, torch.float32, bits=4, active=a, b)"
    model.deactivate()
    assert repr(model) == "zoo.Model('Net', Net, cpu, torch.float32, bits=4)"


def test_merging_in_training_mode_folds_no_dropout_in(net: Net) -> None:
    model = zoo.wrap(net, lora=zoo.LoRA(rank=2, dropout=0.5, targets="all"))
    perturb(model)
    wanted = model.state_dict()["fc.weight"]
    model.train()
    model.merge()
    torch.testing.assert_close(model.state_dict()["fc.weight"], wanted, rtol=0, atol=1e-6)
    assert net.training
