"""Merging exactly, and quantized again with the error measured against the adapter's own effect."""

from __future__ import annotations

import copy
import logging
import math
from typing import Any

import pytest
import torch
from torch import nn

import zoo
from zoo.errors import AdapterError, QuantizationError
from zoo.weights.codecs import pack
from zoo.weights.quantized_tensor import QuantizedTensor
from zoo.weights.walk import managed_weights

from .helpers import Net, deltas, error, out, perturb, stirred

TWO = {"a": zoo.LoRA(rank=2, targets="all"), "b": zoo.LoRA(rank=3, alpha=5, targets=["conv", "fc", "embed", "raw"])}


def held(model: zoo.Model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.module.state_dict().items()}


def wide(ratio: float) -> tuple[zoo.Model, torch.Tensor, torch.Tensor]:
    """Return a 4-bit Linear(128) with an adapter of |ΔW| / |W| = ratio, and the dense base and ΔW in float64."""
    model = zoo.wrap(nn.Sequential(nn.Linear(128, 128)), bits=4, lora=zoo.LoRA(rank=4))
    perturb(model)
    (store,) = managed_weights(model.module).values()
    base = store.base_tensor().detach().double()
    with torch.no_grad():
        update = store.updates["default"]
        update.B.mul_(ratio * float(base.norm() / deltas(model, "default")["0.weight"].norm()))
    return model, base, deltas(model, "default")["0.weight"]


@pytest.mark.parametrize("ratio", [0.3, 0.1, 0.03, 0.01])
def test_a_small_adapter_in_4_bit(ratio: float, caplog: pytest.LogCaptureFixture) -> None:
    """Quantizing again after the merge, as PEFT does, loses an adapter of 3 % of the weight entirely."""
    model, base, delta = wide(ratio)
    exact = model.merge()
    assert error(model.state_dict()["0.weight"].double() - base, delta) < 1e-4
    assert exact.error <= 1e-4
    assert (exact.weights[0].bits, len(exact.weights)) == (32, 1)
    assert math.isclose(exact.weights[0].change, ratio, rel_tol=1e-5)
    assert not caplog.records
    model.unmerge()
    with caplog.at_level(logging.WARNING, "zoo"):
        again = model.merge(bits=4)
    lost = error(model.state_dict()["0.weight"].double() - base, delta)
    assert math.isclose(again.error, lost, rel_tol=1e-3)
    assert math.isclose(again.weights[0].error, lost, rel_tol=1e-3)
    assert lost > {0.3: 0.2, 0.1: 0.5, 0.03: 0.6, 0.01: 0.7}[ratio]
    assert [record.message for record in caplog.records] == [str(again)]
    assert str(again).startswith(f"merged default into 1 weights, 4 bit: error {again.error:.2g} of the adapters' eff")
    by8 = wide(ratio)[0].merge(bits=8)
    assert exact.error < by8.error < again.error


@pytest.mark.parametrize("bits", [None, 4, 8])
@pytest.mark.parametrize(
    "again", [zoo.Quantization(4, mixed=False), 8, 16, zoo.Quantization(4, "fp4", 128, mixed=False)]
)
def test_what_is_stored_is_what_was_asked_and_comes_back(bits: int | None, again: Any) -> None:
    model, x = stirred(Net(), TWO, bits=bits)
    model.activate("a", "b", weights=(0.5, -2))
    before, output, size = held(model), out(model, x), model.footprint()
    wanted = {name: store.dense().detach() for name, store in managed_weights(model.module).items()}
    for _ in range(2):
        report = model.merge(bits=again)
        assert dict(report.names) == {"a": 0.5, "b": -2.0}
        assert model.active == ()
        scheme = again if isinstance(again, zoo.Quantization) else zoo.Quantization(again)
        for name, store in managed_weights(model.module).items():
            stored = store.quantized_base()
            assert isinstance(stored, QuantizedTensor)
            assert stored.codec.scheme == scheme.scheme
            assert stored.dtype == store.dtype == torch.float32
            assert torch.equal(store.dense(), pack(wanted[name], scheme)())
        assert {one.name for one in report.weights} == set(wanted)
        assert error(out(model, x), output) < 2.0  # fp4 in a tiny net may lose that much in an unlucky draw
        assert model.footprint().bytes > size.bytes  # the base is kept
        dense = Net().eval()
        dense.load_state_dict(model.state_dict())
        assert error(out(model, x), out(dense, x)) < 1e-5
        copied = copy.deepcopy(model)
        model.unmerge()
        assert all(torch.equal(tensor, before[name]) for name, tensor in held(model).items())
        assert torch.equal(out(model, x), output)
        assert dict(model.active_weights) == {"a": 0.5, "b": -2.0}
        assert copied.active == ()
        assert error(out(copied, x), out(dense, x)) < 1e-5
        copied.unmerge()
        assert torch.equal(out(copied, x), output)


def test_only_weights_that_take_a_delta_are_quantized_again() -> None:
    net = Net()
    model, x = stirred(net, {"a": zoo.LoRA(2, targets=["fc", "raw"]), "b": zoo.LoRA(2, targets=["conv"])})
    with torch.no_grad():  # an adapter of which one weight is still fresh
        managed_weights(net)["raw"].updates["a"].B.zero_()
    model.activate("a")
    report = model.merge(bits=4)
    assert [one.name for one in report.weights] == ["fc.weight"]
    assert isinstance(managed_weights(net)["fc.weight"].merged_packed, QuantizedTensor)
    assert managed_weights(net)["raw"].dense_base() is managed_weights(net)["raw"].base
    assert managed_weights(net)["conv.weight"].dense_base() is managed_weights(net)["conv.weight"].base
    model.activate("b")  # on top of the merge
    middle = out(model, x)
    model.merge("b")  # exactly now
    assert error(out(model, x), middle) < 1e-5
    fc = managed_weights(net)["fc.weight"]
    assert fc.dense_base() is None
    again = zoo.LoRA(2, targets=["fc"])
    model.add_adapter("c", again)
    stir_only(model, "c")
    lifted = out(model, x)
    report = model.merge("c")  # exact on top of one that was quantized again
    assert error(out(model, x), lifted) < 1e-5
    assert report.error < 1e-5
    model.unmerge()
    assert model.active == ("a", "b", "c")
    assert fc.dense_base() is fc.base


@torch.no_grad()
def stir_only(model: zoo.Model, name: str) -> None:
    for path, parameter in model.module.named_parameters():
        if f".updates.{name}." in path:
            parameter.normal_(std=0.3)


def test_weights_are_merged_in_and_adapters_at_rest_whole() -> None:
    model, _ = stirred(Net(), TWO, bits=4)
    model.activate("a", weights=[0.25])
    model.deactivate()
    base = model.state_dict()
    effect = {name: deltas(model, name) for name in TWO}
    model.activate("a", weights=[0.25])
    report = model.merge("b", "a")
    assert dict(report.names) == {"b": 1.0, "a": 0.25}
    for name, tensor in model.state_dict().items():
        if name in effect["a"]:
            wanted = 0.25 * effect["a"][name] + effect["b"].get(name, 0.0)
            assert error(tensor.double() - base[name].double(), wanted) < 2e-5
    assert str(report).startswith("merged b, 0.25 · a into ")
    model.unmerge()
    assert dict(model.active_weights) == {"a": 0.25}
    model.activate("a", weights=[0])
    report = model.merge()
    assert str(report) == "merged 0 · a: no weight has changed"
    assert all(torch.equal(tensor, base[name]) for name, tensor in model.state_dict().items())


def test_what_an_architecture_keeps_in_full_precision_stays_so() -> None:
    model = zoo.load("gat", bits=4, lora=zoo.LoRA(rank=2, targets="all"), device="cpu")
    perturb(model)
    report = model.merge(bits=4)
    bits = {one.name: one.bits for one in report.weights}
    assert {width for name, width in bits.items() if ".att" in name} == {32}
    assert {width for name, width in bits.items() if ".lin" in name} == {4}
    assert all(one.error < 1e-4 for one in report.weights if one.bits == 32)


def test_a_quantizers_plugin_is_asked_and_its_failure_changes_nothing(site: Any) -> None:
    code = """
    import torch, zoo
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Thirds:
        scheme = "thirds"
        bits = 3

        def unpack(self, tensors, shape, dtype):
            return (tensors[0].to(dtype) / 3).view(shape)

    @zoo.hookimpl
    def quantize(weight, scheme, name):
        if name == "conv.weight" and scheme.block_size == 128:
            raise zoo.QuantizationError("not this one")
        values = (3 * weight).round().to(torch.int8)
        return zoo.QuantizedTensor(Thirds(), weight.shape, weight.dtype, {"values": values})
    """
    site.install("zoo-thirds", {"thirds": "zoo_thirds"}, {"zoo_thirds.py": code})
    model, x = stirred(Net(), TWO)
    before, output = held(model), out(model, x)
    with pytest.raises(QuantizationError, match=r"conv\.weight: not this one"):
        model.merge(bits=zoo.Quantization(3, "thirds", 128))
    with pytest.raises(QuantizationError, match="thurds"):
        model.merge(bits=zoo.Quantization(3, "thurds"))
    assert model.active == ("a", "b")
    assert all(torch.equal(tensor, before[name]) for name, tensor in held(model).items())
    report = model.merge(bits=zoo.Quantization(3, "thirds"))
    assert {one.bits for one in report.weights} == {3}
    for store in managed_weights(model.module).values():
        assert torch.equal((3 * store.dense()).round() / 3, store.dense())
    model.unmerge()
    assert torch.equal(out(model, x), output)


@pytest.mark.parametrize(("bits", "again"), [(None, None), (4, None), (None, 4)])
def test_a_result_that_is_not_finite_is_refused(bits: int | None, again: int | None) -> None:
    model, x = stirred(Net(), TWO, bits=bits)
    model.deactivate()
    base = out(model, x)
    model.activate("a", "b")
    with torch.no_grad():
        managed_weights(model.module)["fc.weight"].updates["b"].B[0, 0] = math.nan
    with pytest.raises((AdapterError, QuantizationError), match=r"fc\.weight.*NaN or Inf"):
        model.merge(bits=again)
    assert model.active == ("a", "b")
    assert model.merge("a", bits=again).names == {"a": 1.0}, "the other one is whole"
    model.unmerge()
    model.deactivate()
    assert torch.equal(out(model, x), base)


def test_a_sum_beyond_float16_is_refused_and_infinite_bases_are_not() -> None:
    layer = nn.Linear(4, 4, bias=False).half()
    layer.weight.data[0, 0] = -math.inf
    model = zoo.wrap(layer, lora=zoo.LoRA(2))
    (update,) = (store.updates["default"] for store in managed_weights(model.module).values())
    with torch.no_grad():
        update.A.fill_(1.0)
        update.B.fill_(1.0)
    model.merge()
    model.unmerge()
    with torch.no_grad():
        update.B[1, 1] = 1e6
    with pytest.raises(AdapterError, match=r"NaN or Inf in torch\.float16"):
        model.merge()


def test_errors_and_meta() -> None:
    model, _ = stirred(Net(), TWO)
    with pytest.raises(QuantizationError, match="bits=5"):
        model.merge(bits=5)
    model.merge("a", bits=4)
    with pytest.raises(AdapterError, match="'a' is merged already"):
        model.merge("a")
    with pytest.raises(AdapterError, match="is merged"):
        model.activate("a", weights=[0.5])
    model.merge()
    with pytest.raises(AdapterError, match="no adapter is active, a, b merged already: name"):
        model.merge()
    assert type(model.unload().fc.weight) is nn.Parameter
    with pytest.raises(AdapterError, match="'meta' has no values to merge"):
        zoo.wrap(Net().to("meta"), lora=2).merge()
