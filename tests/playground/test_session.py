"""What the page of `zoo play` draws, without a browser."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import zoo
from zoo.playground.session import BASE, TUNED, Session, picture, text
from zoo.playground.widgets import is_slider, value_of

NAMES = ("one", "two")


@pytest.fixture(scope="module")
def model() -> zoo.Model:
    """A model with two adapters that change what it draws; the first one is active."""
    model = zoo.load("vae", bits=4, lora=dict.fromkeys(NAMES, 2), seed=0)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.module.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    model.activate("one")
    return model


def test_every_way_is_drawn_from_the_same_seed_and_the_active_adapters_are_as_before(model: zoo.Model) -> None:
    session = Session(model)
    found = session.draw(2, 3, {"temperature": 0.5}, {"one": 1.0, "two": 0.5}, [BASE, "two"])
    assert [one.label for one in found] == [BASE, "two", TUNED]
    assert model.active == ("one",)
    for one, chosen in zip(found, ({}, {"two": 1.0}, {"one": 1.0, "two": 0.5}), strict=True):
        model.activate(*chosen, weights=list(chosen.values())) if chosen else model.deactivate()
        assert torch.equal(one.samples.data, model.sample(2, seed=3, temperature=0.5).data)
    model.activate("one")
    assert not torch.equal(found[0].samples.data, found[2].samples.data)
    assert picture(found).height > picture(found[:1]).height
    assert text(found) is None


def test_weights_of_zero_are_the_base(model: zoo.Model) -> None:
    (found,) = Session(model).draw(1, 0, {}, {"one": 0.0, "two": 0.0})
    assert found.label == BASE
    assert Session(model).draw(1, 0, {}, {"one": 0.0}, [BASE])[0].label == BASE
    with pytest.raises(zoo.ZooError, match="size"):
        Session(model).draw(1, 0, {"size": -1}, {"one": 1.0})
    assert model.active == ("one",)


def test_texts_stand_under_the_name_of_their_way() -> None:
    from zoo.playground.session import Drawn

    texts = [Drawn("base", zoo.Samples(["a"], "text")), Drawn("x", zoo.Samples(["b"], "text"))]
    assert (text(texts) or "").split() == ["—", "base", "—", "a", "—", "x", "—", "b"]
    assert picture(texts) is None


def test_rows_of_class_probabilities_become_one_picture() -> None:
    from zoo.playground.session import Drawn

    samples = zoo.Samples(torch.tensor([[0.25, 0.75]]), "posterior", labels=["a", "b"], images=torch.zeros(1, 1, 8, 8))
    two = picture([Drawn("base", samples), Drawn("x", samples)])
    assert two.height > 2 * samples.image().height


@pytest.mark.parametrize(
    ("option", "raw", "value"),
    [
        (zoo.Option("x", None, "x", "int", 1), "", None),
        (zoo.Option("x", None, "x", "int", 1), "12", 12),
        (zoo.Option("x", None, "x", "float"), "1.5", 1.5),
        (zoo.Option("x", 2, "x", low=1), 3.0, 3),
        (zoo.Option("x", None, "x", "classes"), "A,B", "A,B"),
        (zoo.Option("x", None, "x", "classes"), "[1, 2]", [1, 2]),
        (zoo.Option("x", None, "x", "classes", choices=("A", "B")), [], None),
        (zoo.Option("x", None, "x", "classes", choices=("A", "B")), ["B"], ["B"]),
        (zoo.Option("x", None, "x", "messages"), "hello", "hello"),
        (
            zoo.Option("x", None, "x", "messages"),
            '[{"role": "user", "content": "a"}]',
            [{"role": "user", "content": "a"}],
        ),
        (zoo.Option("x", None, "x", "texts"), "one\ntwo", "one\ntwo"),
        (zoo.Option("x", False, "x"), True, True),
    ],
)
def test_values_of_fields(option: zoo.Option, raw: object, value: object) -> None:
    assert value_of(option, raw) == value


def test_fields_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(zoo.ZooError, match="x: expected a whole number from 1"):
        value_of(zoo.Option("x", None, "x", "int", 1), "many")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(zoo.ZooError, match="broken"):
        value_of(zoo.Option("x", None, "x", "images"), [str(broken)])


def test_pictures_that_are_uploaded(tmp_path: Path) -> None:
    file = zoo.Samples(torch.rand(1, 1, 32, 32), "image").save(tmp_path / "a.png")
    (opened,) = value_of(zoo.Option("x", None, "x", "images"), [str(file)])
    assert opened.size[0] >= 32


def test_sliders_have_two_ends_and_a_default() -> None:
    assert is_slider(zoo.Option("x", 1.0, "x", low=0, high=2))
    assert is_slider(zoo.Option("x", 0.9, "x", above=0, high=1))
    assert not is_slider(zoo.Option("x", None, "x", "int", 0, 2))
    assert not is_slider(zoo.Option("x", 1, "x", low=0))
    assert not is_slider(zoo.Option("x", 1, "x", low=0, high=10**9))
