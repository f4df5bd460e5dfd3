"""The relative error that quantizing leaves, measured in parts, against that of the whole weight in float64."""

import copy

import pytest
import torch

import zoo
from zoo.weights.codecs import pack
from zoo.weights.error import relative_error


def _exact(stored, weight):
    return float((stored(torch.float64) - weight.double()).norm() / weight.double().norm())


@pytest.mark.parametrize(
    "scheme",
    [
        zoo.Quantization(4),
        zoo.Quantization(4, double=False),
        zoo.Quantization(4, "fp4", 4096),
        8,
        16,
        zoo.Quantization(8, "dynamic8"),
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(700, 999), (3, 5), (2, 600, 700), (1, 700_000), (64, 3, 7, 7), ()])
def test_it_is_that_of_the_whole_weight(scheme, shape):
    scheme = zoo.Quantization(scheme) if isinstance(scheme, int) else scheme
    weight = torch.randn(shape)
    stored = pack(weight, scheme)
    assert relative_error(stored, weight) == pytest.approx(_exact(stored, weight), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_floats(dtype):
    weight = torch.randn(900, 400).to(dtype)
    stored = pack(weight, zoo.Quantization(4))
    assert relative_error(stored, weight) == pytest.approx(_exact(stored, weight), rel=1e-5)


def test_zeros_and_meta():
    zeros = torch.zeros(4, 8)
    assert relative_error(pack(zeros, zoo.Quantization(4)), zeros) == 0.0
    assert (
        relative_error(pack(torch.empty(4, 8, device="meta"), zoo.Quantization(4)), torch.empty(4, 8, device="meta"))
        is None
    )


def test_footprints_tell_it_the_largest_first():
    module = torch.nn.Sequential(torch.nn.Embedding(32, 64), torch.nn.Linear(64, 128), torch.nn.LayerNorm(128))
    dense = copy.deepcopy(module)
    model = zoo.wrap(module, bits={"0": 8, "all": 4}, lora=2)
    size = model.footprint()
    assert list(size.errors) == ["1.weight", "0.weight"]
    stored = model.state_dict()
    squares = 0.0
    for name, error in size.errors.items():
        weight = dense.get_parameter(name).double()
        assert error == pytest.approx(float((stored[name].double() - weight).norm() / weight.norm()), rel=1e-5)
        squares += error**2 * weight.numel()
    assert size.error == pytest.approx((squares / (32 * 64 + 64 * 128)) ** 0.5)
    assert zoo.wrap(torch.nn.Linear(8, 8).to("meta"), bits=4).footprint().error is None
    assert zoo.wrap(torch.nn.Linear(8, 8)).footprint().errors == {}


def test_copies_keep_it():
    model = zoo.wrap(torch.nn.Sequential(torch.nn.Linear(64, 64)), bits=4)
    expected = model.footprint().errors
    assert expected
    copied = copy.deepcopy(model.module)
    assert zoo.weights.footprint.footprint(copied).errors == expected
    assert zoo.weights.footprint.footprint(model.module.to(torch.bfloat16)).errors == expected
