"""What the page of `zoo play` draws, without a browser."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import zoo
from zoo.comparison.outputs import apart
from zoo.playground import shown
from zoo.playground.session import BASE, Drawn, Session
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
    assert [one.label for one in found] == [BASE, "two", "one × 1 + two × 0.5"]
    assert model.active == ("one",)
    for one, chosen in zip(found, ({}, {"two": 1.0}, {"one": 1.0, "two": 0.5}), strict=True):
        model.activate(*chosen, weights=list(chosen.values())) if chosen else model.deactivate()
        assert torch.equal(one.samples.data, model.sample(2, seed=3, temperature=0.5).data)
    model.activate("one")
    assert not torch.equal(found[0].samples.data, found[2].samples.data)
    page = shown.side_by_side(found)
    assert page.count("<img") == 6
    assert [one in page for one in ("base", "two", "one × 1 + two × 0.5")] == [True] * 3
    table = shown.apart_table(found)
    assert table is not None
    assert table.count("<tr>") == 3  # the heads, and both that are not the base
    assert "0 of 2" in table


def test_a_mix_that_is_an_adapter_alone_is_drawn_once(model: zoo.Model) -> None:
    session = Session(model)
    assert [way.label for way in session.ways({"one": 1.0, "two": 0.0}, [BASE, "one"])] == [BASE, "one"]
    assert [way.label for way in session.ways({"one": 0.5}, ["one"])] == ["one", "one × 0.5"]


def test_weights_of_zero_are_the_base(model: zoo.Model) -> None:
    (found,) = Session(model).draw(1, 0, {}, {"one": 0.0, "two": 0.0})
    assert found.label == BASE
    assert Session(model).draw(1, 0, {}, {"one": 0.0}, [BASE])[0].label == BASE
    with pytest.raises(zoo.ZooError, match="size"):
        Session(model).draw(1, 0, {"size": -1}, {"one": 1.0})
    assert model.active == ("one",)


def test_samples_of_other_kinds_stand_beside_each_other_under_the_name_of_their_way(tmp_path: Path) -> None:
    texts = [Drawn("base", zoo.Samples(["a <b>"], "text")), Drawn("x/..\\y × 2", zoo.Samples(["c"], "text"))]
    page = shown.side_by_side(texts)
    assert "a &lt;b&gt;" in page
    assert page.index("base") < page.index("x/..")
    paths = shown.written(texts, 3, tmp_path)
    assert [Path(path).name for path in paths] == ["1-base-seed3.txt", "2-x-..-y-x-2-seed3.txt"]
    rows = zoo.Samples(torch.tensor([[0.25, 0.75]]), "posterior", labels=["a", "b"], images=torch.zeros(1, 1, 8, 8))
    page = shown.side_by_side([Drawn("base", rows), Drawn("x", rows)])
    assert page.count("75.0%") == page.count("<img") == 2
    assert {Path(path).suffix for path in shown.written([Drawn("x", rows)], 0, tmp_path)} == {".png", ".csv"}


def test_how_far_samples_are_apart() -> None:
    def of(*rows: list[float]) -> zoo.Samples:
        return zoo.Samples(torch.tensor(rows), "posterior", labels=["a", "b"])

    found = apart(of([0.25, 0.75], [1.0, 0.0]), of([0.5, 0.5], [1.0, 0.0]))
    assert found is not None
    assert found.values == (0.25, 0.0)
    assert (found.mean, found.equal) == (0.125, 1)
    words = apart(zoo.Samples(["a b", "a b", "a b"], "text"), zoo.Samples(["a b", "a c", "a  b"], "text"))
    assert words is not None
    assert words.values == pytest.approx((0.0, 1 / 3, 1 / 3))
    grey = [zoo.Samples(torch.full((1, 1, 2, 2), value), "image") for value in (0.25, 0.75)]
    pictures = apart(*grey)
    assert pictures is not None
    assert pictures.values == (0.5,)
    assert apart(grey[0], zoo.Samples(torch.zeros(1, 1, 3, 3), "image")) is None
    assert apart(grey[0], of([0.5, 0.5])) is None
    assert shown.apart_table([Drawn("base", grey[0])]) is None


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
        (zoo.Option("x", None, "x", "texts"), "one\n---\ntwo\nlines\n--- \n", ["one", "two\nlines"]),
        (zoo.Option("x", None, "x", choices=("a", "b")), "", None),
        (zoo.Option("x", "given", "x"), "", ""),
        (zoo.Option("x", None, "x", "text"), "", None),
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
