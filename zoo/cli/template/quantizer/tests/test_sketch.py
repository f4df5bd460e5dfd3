"""What zoo promises of every quantizer, and this scheme's own bounds."""

from __future__ import annotations

import pytest
import torch
import zoo
from zoo.testing import conformance

from zoo_sketch.codec import pack

test_promise = conformance("sketch")


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("shape", [(40, 24), (7, 5, 3, 3), (13,)])
def test_no_weight_is_off_by_more_than_half_a_level(bits, shape):
    weight = torch.randn(shape)
    packed = pack(weight, zoo.Quantization(bits=bits, scheme="sketch", block_size=16))
    flat, dense = weight.flatten(), packed().flatten()
    for first in range(0, flat.numel(), 16):
        block = slice(first, first + 16)
        bound = flat[block].abs().max() / 2**bits
        assert (flat[block] - dense[block]).abs().max() <= bound * (1 + 1e-3)


@pytest.mark.parametrize("bits", [2, 3, 5])
def test_it_stores_as_few_bits_as_it_says(bits):
    packed = pack(torch.randn(64, 64), zoo.Quantization(bits=bits, scheme="sketch", block_size=64))
    stored = sum(tensor.numel() * tensor.element_size() * 8 for tensor in packed.tensors())
    assert stored == 64 * 64 * (bits + 32 / 64)  # and a float32 scale for each block


def test_zeros_stay_zero():
    assert not pack(torch.zeros(3, 8), zoo.Quantization(bits=3, scheme="sketch"))().any()


def test_a_model_in_three_bits_trains():
    scheme = zoo.Quantization(bits=3, scheme="sketch")
    model = zoo.wrap(torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8)), bits=scheme)
    model.add_adapter("low_rank", zoo.LoRA(rank=2, targets="all"))
    model(torch.randn(5, 32)).square().mean().backward()
    grads = {name: parameter.grad for name, parameter in model.trainable_parameters()}
    assert len(grads) == 4
    assert all(grad is not None and torch.isfinite(grad).all() for grad in grads.values())


@pytest.mark.parametrize("asked", [{"bits": 1}, {"bits": 9}, {"bits": 3, "block_size": 12}])
def test_mistakes_are_told(asked):
    with pytest.raises(zoo.QuantizationError, match="sketch"):
        pack(torch.randn(8, 8), zoo.Quantization(scheme="sketch", **asked))
