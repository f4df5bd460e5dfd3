"""What zoo promises of every architecture, and what is special about this one."""

from __future__ import annotations

import pytest
import zoo
from zoo.testing import conformance

import zoo_sketch.model

test_promise = conformance("sketch", sample={"length": 8})


def test_text_survives_encoding():
    assert zoo_sketch.model.decode(zoo_sketch.model.encode("Two\nlines.")) == "Two\nlines."
    assert zoo_sketch.model.decode(zoo_sketch.model.encode("naïve\t")) == "na?ve?"


def test_it_learns_from_nothing():
    model = zoo.load("sketch", device="cpu")
    before = model.evaluate("text:licences")["bits_per_character"]
    model.tune("text:licences", steps=100, batch_size=64, lr=3e-3, quiet=True)
    assert model.evaluate("text:licences")["bits_per_character"] < before - 2


def test_four_bit_with_lora_learns_and_is_saved(tmp_path):
    model = zoo.load("sketch", lora=8, bits=4, device="cpu", seed=0)
    before = model.evaluate("text:licences")["bits_per_character"]
    model.tune("text:licences", steps=50, batch_size=64, lr=5e-3, quiet=True)
    after = model.evaluate("text:licences")
    assert after["bits_per_character"] < before - 1
    model.save_adapter(tmp_path / "adapter")
    again = zoo.load("sketch", lora=str(tmp_path / "adapter"), bits=4, device="cpu")
    assert again.evaluate("text:licences") == after


def test_a_sample_goes_on_from_its_prompt():
    model = zoo.load("sketch", device="cpu")
    one, two = model.sample(2, prompt="The ", length=10, temperature=0.0)
    assert one == two  # the likeliest text needs no seed
    assert one.startswith("The ")
    assert len(one) == 14


@pytest.mark.parametrize("options", [{"length": 0}, {"temperature": -1.0}, {"lenght": 8}])
def test_mistakes_are_told(options):
    with pytest.raises(zoo.ZooError, match="length"):
        zoo.load("sketch", device="cpu").sample(1, **options)
