"""Layers of unknown libraries: named where they are passed over, and read by a plugin's hook `foreign_weight`."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import zoo
from zoo.plugin import hooks

KNOWN = (("codes", "codes"), ("scale", "scale"))


class Unknown(nn.Module):
    """(n, 64) → (n, 32)."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("codes", torch.randint(-7, 7, (32, 64), dtype=torch.int8))
        self.register_buffer("scale", torch.rand(32, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.codes * self.scale)


class Table(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randint(0, 9, (8, 8), dtype=torch.int8), requires_grad=False)


@dataclass(frozen=True)
class Rows:
    scheme: str = "rows"
    bits: int = 8

    def unpack(self, tensors: tuple[Tensor, ...], shape: torch.Size, dtype: torch.dtype) -> Tensor:
        return (tensors[0] * tensors[1]).to(dtype)


def forward(layer: nn.Module, x: Tensor) -> Tensor:
    return F.linear(x, layer.weight)


class Reader:
    @zoo.hookimpl
    def foreign_weight(self, layer: nn.Module, dtype: torch.dtype) -> zoo.ForeignWeight | None:
        if type(layer).__name__ != "Unknown":
            return None
        tensors = {"codes": layer.codes, "scale": layer.scale}
        packed = zoo.QuantizedTensor(Rows(), layer.codes.shape, dtype, tensors)
        return zoo.ForeignWeight("rows of Reader", packed, KNOWN, forward, "linear")


@pytest.fixture
def reader():
    hooks.reset()
    hooks.register(Reader(), "reader")
    yield
    hooks.reset()


@pytest.mark.parametrize(
    ("layer", "stored"), [(Unknown, "codes of type torch.int8"), (Table, "weight of type torch.int8")]
)
def test_a_layer_that_is_passed_over_is_named(layer, stored):
    net = nn.Sequential(nn.Linear(8, 8), layer())
    with pytest.warns(UserWarning, match=rf"no adapter: 1 \({layer.__name__}, {stored}\)"):
        model = zoo.wrap(net, lora=2)
    model.unload()
    with pytest.warns(UserWarning, match=rf"not quantized: 1 \({layer.__name__}, {stored}\)"):
        zoo.wrap(net, bits=4).unload()
    with pytest.raises(zoo.AdapterError, match=rf"1 \({layer.__name__}, {stored}\) takes no adapter"):
        zoo.wrap(net, lora=zoo.LoRA(2, targets=["1"]))
    with pytest.raises(zoo.AdapterError, match=rf"0 \({layer.__name__}, {stored}\) takes no adapter"):
        zoo.wrap(nn.Sequential(layer()), lora=2)


def test_a_layer_that_is_not_meant_is_not_named():
    model = zoo.wrap(nn.Sequential(nn.Linear(8, 8), Unknown()), lora=zoo.LoRA(2, targets=["0"]))
    model.add_adapter("other", zoo.LoRA(2, targets=["0"]))
    assert len(model.adapters) == 2


@pytest.mark.parametrize("name", ["index", "relative_position", "mask"])
def test_integers_that_are_no_weight_are_not_named(name):
    net = nn.Sequential(nn.Linear(8, 8))
    net.register_buffer(name, torch.zeros(4, 4, dtype=torch.int32))
    net[0].register_buffer("weight_scale_of_codes", torch.zeros(4, 4, dtype=torch.uint8))
    zoo.wrap(net, lora=2)


@pytest.mark.usefixtures("reader")
def test_a_plugin_reads_it(perturb, tmp_path):
    from peft import PeftConfig

    net, x = nn.Sequential(Unknown(), nn.Linear(32, 4)), torch.randn(3, 64)
    before, codes = net(x), net[0].codes
    model = zoo.wrap(net, lora=4)
    torch.testing.assert_close(model(x), before)
    perturb(model)
    y = model(x)
    model.save_adapter(tmp_path)
    assert set(PeftConfig.from_pretrained(tmp_path).target_modules) == {"0", "1"}
    model.merge()
    torch.testing.assert_close(model(x), y, rtol=1e-5, atol=1e-5)
    model.unmerge()
    assert model.unload()[0].codes.equal(codes)
    assert isinstance(net[0]._buffers["codes"], Tensor)
    torch.testing.assert_close(net(x), before, rtol=0, atol=0)


@pytest.mark.usefixtures("reader")
def test_what_a_plugin_returns_is_checked(monkeypatch):
    monkeypatch.setattr(Reader, "foreign_weight", zoo.hookimpl(lambda self, layer: "codes"))
    hooks.reset()
    hooks.register(Reader(), "reader")
    with pytest.raises(zoo.PluginError, match=r"expected a zoo\.ForeignWeight, got builtins\.str"):
        zoo.wrap(nn.Sequential(Unknown()), lora=2)
