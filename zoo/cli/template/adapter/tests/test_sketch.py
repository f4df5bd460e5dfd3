"""What zoo promises of every adapter kind, and what this one computes."""

from __future__ import annotations

import pytest
import torch
import zoo
from torch import nn
from zoo.testing import conformance

from zoo_sketch import Sketch

test_promise = conformance("sketch", adapter=Sketch(targets="all"))


def one_layer(layer: nn.Module, side: str) -> tuple[zoo.Model, torch.Tensor, torch.Tensor]:
    """Return a layer with an adapter whose gains are random; its weight and the gains, in float64."""
    weight = layer.weight.detach().double()
    model = zoo.wrap(layer, lora=Sketch(targets="all", side=side))
    ((_, gain),) = model.trainable_parameters()
    nn.init.normal_(gain)
    return model, weight, gain.detach().double()


def test_a_gain_for_each_output_is_a_gain_of_the_result():
    model, weight, gain = one_layer(nn.Linear(6, 4, bias=False), "outputs")
    x = torch.randn(5, 6)
    expected = (x.double() @ weight.T) * (1 + gain.flatten())
    torch.testing.assert_close(model(x).double(), expected, atol=1e-5, rtol=1e-5)


def test_a_gain_for_each_input_is_a_gain_of_what_comes_in():
    model, weight, gain = one_layer(nn.Linear(6, 4, bias=False), "inputs")
    x = torch.randn(5, 6)
    expected = (x.double() * (1 + gain.flatten())) @ weight.T
    torch.testing.assert_close(model(x).double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("layer", "side", "count"),
    [
        (nn.Conv2d(3, 8, 3, bias=False), "outputs", 8),
        (nn.Conv2d(3, 8, 3, bias=False), "inputs", 3),
        (nn.ConvTranspose2d(3, 8, 3, bias=False), "outputs", 8),  # its weight begins with the inputs
        (nn.ConvTranspose2d(3, 8, 3, bias=False), "inputs", 3),
        (nn.Embedding(11, 6), "inputs", 11),
        (nn.Embedding(11, 6), "outputs", 6),
    ],
)
def test_sides_are_those_of_the_layer(layer, side, count):
    assert one_layer(layer, side)[2].numel() == count


def test_its_configuration_survives_a_file():
    config = Sketch(targets=("a", "b"), side="inputs")
    assert Sketch.from_peft(config.to_peft()) == config


def test_mistakes_are_told():
    with pytest.raises(zoo.AdapterError, match="expected 'outputs' or 'inputs', got 'left'"):
        Sketch(side="left")
