"""LoRA over bitsandbytes' layers is PEFT's, and their storage stays as it is."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from torch import Tensor, nn

import zoo

MAKERS: dict[str, Callable[[int, int], nn.Module]] = {
    "nf4": lambda i, o: bnb.nn.Linear4bit(i, o, quant_type="nf4"),
    "fp4": lambda i, o: bnb.nn.Linear4bit(i, o, quant_type="fp4", compress_statistics=False),
    "bf16 storage": lambda i, o: bnb.nn.Linear4bit(i, o, quant_type="nf4", quant_storage=torch.bfloat16),
    "int8": lambda i, o: bnb.nn.Linear8bitLt(i, o, has_fp16_weights=False),
    "outliers": lambda i, o: bnb.nn.Linear8bitLt(i, o, has_fp16_weights=False, threshold=1.0),
}


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "bitsandbytes")


class Net(nn.Module):
    """ids (n, m) → (n, m, 4)."""

    is_loaded_in_4bit = is_loaded_in_8bit = False  # PEFT reads them

    def __init__(self, make: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        self.e, self.a, self.b, self.h = nn.Embedding(16, 64), make(64, 128), make(128, 64), nn.Linear(64, 4)
        self.is_loaded_in_4bit = isinstance(self.a, bnb.nn.Linear4bit)
        self.is_loaded_in_8bit = not self.is_loaded_in_4bit

    def forward(self, ids: Tensor) -> Tensor:
        return self.h(torch.relu(self.b(torch.relu(self.a(self.e(ids))))))


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(0, 16, (2, 5))


def base(kind: str, training: bool, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return Net(MAKERS[kind]).to("cpu").train(training)


# In evaluation mode bitsandbytes rounds 4-bit weights to bf16 on a CPU with AVX-512-BF16, and zoo does not.
@pytest.mark.parametrize(
    ("kind", "training"), [*((kind, True) for kind in MAKERS), ("int8", False), ("outliers", False)]
)
def test_an_adapter_is_pefts_both_ways(kind, training, ids, perturb, tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model

    model = zoo.wrap(base(kind, training), lora=zoo.LoRA(4, targets=["a", "b", "h"]))
    perturb(model)
    model.save_adapter(tmp_path / "zoo")
    peft = PeftModel.from_pretrained(base(kind, training), tmp_path / "zoo").train(training)
    torch.testing.assert_close(model(ids), peft(ids), rtol=1e-5, atol=1e-5)

    peft = get_peft_model(base(kind, training), LoraConfig(r=3, target_modules=["a", "b"])).train(training)
    perturb(peft)
    peft.save_pretrained(tmp_path / "peft")
    again = zoo.wrap(base(kind, training), lora=tmp_path / "peft")
    torch.testing.assert_close(again(ids), peft(ids), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", MAKERS)
def test_the_base_is_unchanged_by_training_merging_and_unloading(kind, cycle):
    torch.manual_seed(1)
    cycle(nn.Sequential(MAKERS[kind](64, 64)).to("cpu"), torch.randn(3, 64))


@pytest.mark.parametrize("make", [bnb.nn.EmbeddingNF4, bnb.nn.EmbeddingFP4, bnb.nn.Embedding8bit])
def test_embeddings(make, cycle, monkeypatch):
    monkeypatch.setattr(make, "_save_to_state_dict", nn.Module._save_to_state_dict)  # they refuse to be saved
    cycle(nn.Sequential(make(32, 64)).to("cpu"), torch.randint(0, 32, (2, 7)))


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_layer_that_was_not_moved_yet_is_quantized_as_it_would_be(kind):
    net = nn.Sequential(MAKERS[kind](64, 64))
    moved = nn.Sequential(MAKERS[kind](64, 64))
    moved.load_state_dict(net.state_dict())
    x = torch.randn(3, 64)
    expected = moved.to("cpu")(x)
    model = zoo.wrap(net, lora=2)
    torch.testing.assert_close(model(x), expected)
    assert model.footprint().quantized_share > 0.9


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_a_layer_that_its_cpu_kernel_has_used_keeps_its_weight(kind):
    """Its codes are in another order then, and its scales rounded, where the CPU has the kernel."""
    net = nn.Sequential(MAKERS[kind](128, 64)).to("cpu").eval()
    weight = bnb.functional.dequantize_4bit(net[0].weight.data, net[0].weight.quant_state)
    x = torch.randn(3, 128)
    with torch.no_grad():
        used = net(x)
    model = zoo.wrap(net, lora=2)
    dense = model.state_dict()["0.weight"]
    assert (dense - weight).norm() <= 0.01 * weight.norm()
    torch.testing.assert_close(model(x).detach(), used, rtol=0.03, atol=0.03)
    with torch.no_grad():
        torch.testing.assert_close(model.unload()(x), used, rtol=0, atol=0)


def test_zoos_product_is_that_of_the_stored_weight_where_bitsandbytes_cpu_kernel_errs():
    """Its kernel for whole matrices takes rows to begin a block, which rows of 96 do not."""
    layer = bnb.nn.Linear4bit(96, 8, quant_type="nf4")
    weight = layer.weight.detach().clone()
    model = zoo.wrap(nn.Sequential(layer).to("cpu"))
    assert (model.state_dict()["0.weight"] - weight).norm() < 0.13 * weight.norm()


def test_bits_are_counted(ids):
    model = zoo.wrap(base("nf4", True))
    bits = {name: width for name, _, _, width, _ in model.weights()}
    assert 4 < bits["a.weight"] < 4.6
    assert bits["h.weight"] == 32
    model = zoo.wrap(base("int8", True))
    assert 8 < {name: width for name, _, _, width, _ in model.weights()}["a.weight"] < 9


@pytest.mark.parametrize("method", ["dora", "loha", "full", "two"])
def test_other_kinds_over_8_bit_in_evaluation_mode(method, perturb):
    configs: dict[str, Any] = {"dora": zoo.LoRA(3, dora=True), "loha": zoo.LoHa(3), "full": zoo.Full(targets=["0"])}
    net = nn.Sequential(MAKERS["int8"](64, 64)).to("cpu").eval()
    weight = bnb.functional.int8_vectorwise_dequant(net[0].weight.CB, net[0].weight.SCB)
    x = torch.randn(3, 64)
    model = zoo.wrap(net, lora={"a": configs.get(method, 3), **({"b": 2} if method == "two" else {})})
    perturb(model)
    expected = nn.functional.linear(x, model.state_dict()["0.weight"], net[0].bias)
    assert not torch.allclose(model.state_dict()["0.weight"], weight, atol=1e-3)
    torch.testing.assert_close(model(x), expected, rtol=0.02, atol=0.05)  # inputs are rounded to 8 bit


def test_copies_and_casts(perturb):
    net = nn.Sequential(MAKERS["nf4"](64, 64), MAKERS["int8"](64, 64)).to("cpu")
    model, x = zoo.wrap(net, lora=2), torch.randn(3, 64)
    perturb(model)
    y = model(x)
    copied = copy.deepcopy(model.module)
    torch.testing.assert_close(copied(x), y, rtol=0, atol=0)
    torch.testing.assert_close(copied.bfloat16()(x.bfloat16()).float(), y, rtol=0.05, atol=0.1)
    torch.testing.assert_close(model(x), y, rtol=0, atol=0)


def refused(module: nn.Module, **options: Any) -> str:
    keys = list(module.state_dict())
    with pytest.raises(zoo.ZooError) as caught:
        zoo.wrap(module, **options)
    assert "\n" not in str(caught.value)
    assert list(module.state_dict()) == keys
    return str(caught.value)


def test_what_cannot_be_had_is_refused_in_one_line():
    def fp16() -> nn.Module:
        return nn.Sequential(nn.Linear(64, 64), bnb.nn.Linear8bitLt(64, 64))

    for options in ({"lora": 2}, {"lora": zoo.LoRA(2, targets=["1"])}, {"bits": 4}):
        message = refused(fp16(), **options)
        assert message.startswith("1 (bitsandbytes int8)")
        assert "has_fp16_weights=False" in message
    assert zoo.wrap(fp16(), lora=zoo.LoRA(2, targets=["0"])).footprint().adapted_share > 0
    assert "got one of 4 bit" in refused(nn.Sequential(MAKERS["nf4"](64, 64)).to("cpu"), bits=8)
    odd = nn.Module()
    odd.weight = bnb.nn.Params4bit(torch.randn(64, 64)).to("cpu")
    assert "a Module reads it in a way of its own" in refused(nn.Sequential(odd, nn.Linear(8, 8)), lora=2)


def test_the_rest_of_a_module_takes_the_same_bits():
    model = zoo.wrap(nn.Sequential(MAKERS["nf4"](64, 64).to("cpu"), nn.Linear(64, 64)), bits=4)
    assert model.footprint().quantized_share > 0.95


class Experts(nn.Module):
    """x (n, 64) → (n, 4, 32), by one weight for four experts."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = nn.Parameter(torch.randn(4, 32, 64))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("eoi,bi->beo", self.stack, x)


@pytest.mark.parametrize("double", [False, True])
def test_parameters_that_are_quantized_by_a_parametrization(double, perturb):
    from bitsandbytes.nn.parametrize import replace_parameter_4bit

    net, x = Experts(), torch.randn(3, 64)
    replace_parameter_4bit(net, "stack", compress_statistics=double)
    before, state = net(x), {name: value.clone() for name, value in net.state_dict().items()}
    model = zoo.wrap(net, lora=2)
    assert 4 < next(iter(model.weights())).bits < 5
    torch.testing.assert_close(model(x), before, rtol=0, atol=0)
    perturb(model)
    y = model(x)
    y.sum().backward()
    assert not torch.allclose(y, before, atol=0.1)
    model.merge()
    torch.testing.assert_close(model(x), y, rtol=1e-5, atol=1e-5)
    model.unmerge()
    after = model.unload().state_dict()
    assert all(value.equal(after[name]) for name, value in state.items())
    torch.testing.assert_close(net(x), before, rtol=0, atol=0)
