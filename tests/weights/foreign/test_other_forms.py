"""8-bit floats with and without scales, GPTQ, AWQ, tensor subclasses, HQQ, torchao and optimum-quanto."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import zoo

from .layers import Cast, Grouped, Halves, Scaled

X = torch.randn(3, 64)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_weights_that_the_layer_casts(dtype, cycle):
    model = cycle(nn.Sequential(Cast(dtype)), X)
    assert zoo.wrap(model.module).footprint().quantized_share == 1.0


@pytest.mark.parametrize(
    ("per", "name"),
    [
        ("tensor", "weight_scale"),
        ("tensor", "scale"),
        ("row", "scale_weight"),
        ("column", "weight_scale"),
        ("block", "weight_scale_inv"),
    ],
)
@pytest.mark.parametrize("divides", [False, True])
def test_scales_beside_them(per, name, divides, cycle):
    cycle(nn.Sequential(Scaled(per, name, divides=divides)), X)


def test_8_bit_floats_in_torchs_own_layers_which_cannot_compute_with_them():
    image, ids = torch.randn(2, 4, 8, 8), torch.arange(5)
    linear, conv, embedding = nn.Linear(64, 8), nn.Conv2d(4, 8, 3), nn.Embedding(16, 8)
    dense = [layer.weight.detach().to(torch.float8_e4m3fn).float() for layer in (linear, conv, embedding)]
    for layer in (linear, conv, embedding):
        layer.weight = nn.Parameter(layer.weight.detach().to(torch.float8_e4m3fn), requires_grad=False)
    expected = (F.linear(X, dense[0], linear.bias), F.conv2d(image, dense[1], conv.bias), F.embedding(ids, dense[2]))
    zoo.wrap(nn.ModuleList([linear, conv, embedding]), lora=2)
    for layer, x, y in zip((linear, conv, embedding), (X, image, ids), expected, strict=True):
        torch.testing.assert_close(layer(x), y)


@pytest.mark.parametrize("block", [None, (32, 32), (128, 128)])
def test_transformers_layers_of_deepseek(block):
    """Their kernels do not run on a CPU; the values are multiplied by the scales in spite of their name."""
    from transformers.integrations.finegrained_fp8 import FP8Linear

    layer = FP8Linear(64, 96, block_size=block, has_bias=True)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(96, 64).to(torch.float8_e4m3fn))
        layer.weight_scale_inv.copy_(torch.rand(layer.weight_scale_inv.shape))
        layer.bias.normal_()
    scales = layer.weight_scale_inv.detach()
    if block:
        scales = scales.repeat_interleave(block[0], 0)[:96].repeat_interleave(block[1], 1)[:, :64]
    expected = F.linear(X, layer.weight.detach().float() * scales, layer.bias)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    model = zoo.wrap(nn.Sequential(layer), lora=2)
    torch.testing.assert_close(model(X), expected)
    after = model.unload()[0].state_dict()
    assert all(before[name].float().equal(after[name].float()) for name in before)
    assert before.keys() == after.keys()


def test_8_bit_floats_whose_use_is_not_known_are_refused():
    layer = Scaled("row", "weight_scale")
    layer.forward = lambda x: F.linear(x, layer.weight.to(x.dtype)).sin()  # type: ignore[method-assign]
    for options in ({"lora": 2}, {"bits": 8}):
        with pytest.raises(zoo.ZooError, match=r"0 \(float8_e4m3fn with weight_scale\)"):
            zoo.wrap(nn.Sequential(layer), **options)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("offset", [0, 1])
def test_gptq(bits, offset, cycle):
    model = cycle(nn.Sequential(Grouped("gptq", bits, offset)), X, new=1e-3)
    assert bits < next(iter(zoo.wrap(model.module).weights())).bits < bits + 1.5


def test_awq(cycle):
    cycle(nn.Sequential(Grouped("awq")), X, new=1e-3)


def test_codes_in_a_kernels_own_order_are_refused():
    layer = Grouped("gptq")
    layer.qweight = layer.qweight.view(-1, 2 * layer.qweight.shape[1])
    with pytest.raises(zoo.AdapterError, match=r"0 \(.* 4 bit\) takes no adapter: its kernel has reordered the codes"):
        zoo.wrap(nn.Sequential(layer, nn.Linear(8, 8)), lora=2)
    layer = Grouped("gptq")
    layer.dense = layer.dense.flip(0)
    with pytest.raises(zoo.AdapterError, match="computes another product"):
        zoo.wrap(nn.Sequential(layer, nn.Linear(8, 8)), lora=2)


def halves() -> nn.Sequential:
    net = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 8))
    for layer in net:
        layer.weight = nn.Parameter(Halves.of(layer.weight.detach()), requires_grad=False)
    return net


def test_a_tensor_subclass_keeps_its_own_product(perturb):
    net = halves()
    before, gradient = net(X), X.clone().requires_grad_()
    model = zoo.wrap(net, lora=2)
    torch.testing.assert_close(model(X), before, rtol=0, atol=0)
    perturb(model)
    dense = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 8))
    dense.load_state_dict(model.state_dict())
    torch.testing.assert_close(model(X), dense(X), rtol=0, atol=5e-3)
    assert not torch.allclose(model(X), before, atol=1e-2)
    model(gradient).sum().backward()
    assert gradient.grad is not None
    other = X.clone().requires_grad_()
    dense(other).sum().backward()
    torch.testing.assert_close(gradient.grad, other.grad)
    assert isinstance(model.unload()[0].weight, Halves)
    torch.testing.assert_close(net(X), before, rtol=0, atol=0)


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
@pytest.mark.parametrize("axis", [0, 1])
def test_hqq(bits, axis, cycle):
    quantize = pytest.importorskip("hqq.core.quantize")
    config = quantize.BaseQuantizeConfig(nbits=bits, group_size=32, axis=axis)
    layer = quantize.HQQLinear(nn.Linear(64, 96, bias=False), config, compute_dtype=torch.float32, device="cpu")
    layer.quant_config = config
    net = nn.Sequential(layer)
    model = zoo.wrap(net, lora=2)
    assert next(iter(model.weights())).name == "0.weight"
    model.unload()
    cycle(net, X)


def test_an_adapter_over_hqq_is_pefts(perturb, tmp_path):
    from peft import PeftModel

    quantize = pytest.importorskip("hqq.core.quantize")

    def base() -> nn.Sequential:
        torch.manual_seed(0)
        config = quantize.BaseQuantizeConfig(nbits=4, group_size=32, axis=1)
        made = quantize.HQQLinear(nn.Linear(64, 64), config, compute_dtype=torch.float32, device="cpu")
        return nn.Sequential(made, nn.Linear(64, 4))

    model = zoo.wrap(base(), lora=zoo.LoRA(3, targets=["0", "1"]))
    perturb(model)
    model.save_adapter(tmp_path)
    torch.testing.assert_close(model(X), PeftModel.from_pretrained(base(), tmp_path)(X), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "kind", ["Int8WeightOnlyConfig", "Int8DynamicActivationInt8WeightConfig", "IntxWeightOnlyConfig"]
)
def test_torchao(kind, perturb):
    library = pytest.importorskip("torchao.quantization")
    net = nn.Sequential(nn.Linear(64, 64))
    library.quantize_(net, getattr(library, f"{kind}Config")())
    before = net(X)
    model = zoo.wrap(net, lora=2)
    torch.testing.assert_close(model(X), before)
    perturb(model)
    model(X).sum().backward()
    assert type(model.unload()[0].weight).__module__.startswith("torchao")
    torch.testing.assert_close(net(X), before, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["qint8", "qint4", "qint2", "qfloat8"])
def test_optimum_quanto(kind, cycle):
    library = pytest.importorskip("optimum.quanto")
    net = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    library.quantize(net, weights=getattr(library, kind))
    with pytest.raises(zoo.AdapterError, match=r"call optimum\.quanto\.freeze"):
        zoo.wrap(net, lora=2)
    library.freeze(net)
    cycle(net, X)
