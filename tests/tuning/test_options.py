"""Options that there are not, and values that cannot be: one clear error before anything is read."""

from __future__ import annotations

import pytest
import torch

import zoo
from zoo.errors import AdapterError, DataError, TuningError, UnknownNameError, ZooError
from zoo.plugin.requests import BatchRequest, SampleRequest
from zoo.tuning.examples import steps_of, without_gradients
from zoo.tuning.fingerprint import fingerprint

from .helpers import run


@pytest.mark.parametrize(
    ("name", "near"),
    [("stesp", "steps"), ("save_evry", "save_every"), ("learning_rate", "lr"), ("output_dir", "out"), ("xyzzy", None)],
)
def test_an_unknown_option_names_the_nearest_one(fake, name, near):
    hint = rf"Did you mean '{near}'\? The options are steps" if near else r"^tune has no option 'xyzzy'\. The options"
    with pytest.raises(UnknownNameError, match=hint):
        run(fake(), **{name: 1})
    with pytest.raises(UnknownNameError, match=hint):
        zoo.load("gat", device="meta").tune(**{name: 1})


def test_options_are_given_by_name(fake):
    with pytest.raises(TuningError, match="options by name, such as steps=200, got 5 without one"):
        zoo.load("gat", device="meta").tune(None, 5)


class Printer(zoo.Callback):
    pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(({name: 0}, f"expected {name} as a whole") for name in ("save_every", "keep", "log_every")),
        *(({"save_every": value}, "expected save_every") for value in (-1, 1.5, "x", True, None)),
        *(({"seed": value}, "expected seed") for value in (2**70, 2**64, -1)),
        *(({"betas": value}, "expected betas as two numbers") for value in (0.9, (0.9,), "ab", (0.9, 0.9, 0.9), 5)),
        ({"steps": 10**30}, r"expected steps .* at most 1,000,000,000,000, got 1e\+30"),
        ({"batch_size": 10**9}, r"expected batch_size .* at most 16,777,216, got 1e\+09"),
        ({"gradient_accumulation_steps": 10**9}, "expected gradient_accumulation_steps .* at most"),
        ({"lr": 1e30}, "expected lr as a number, at most 1000"),
        ({"weight_decay": 1e30}, "expected weight_decay as a number, at most 1000"),
        *(({"out": value}, "expected out as a folder's name") for value in (5, b"x", ["a"], "a\0b", "")),
        *(({"callbacks": value}, "expected callbacks as a list") for value in (5, Printer(), None)),
        ({"callbacks": [Printer]}, r"got the class: give Printer\(\)"),
        ({"on_step": 5}, "expected on_step as a function"),
        ({"resume": "yes"}, "expected resume as True or False"),
        ({"quiet": None}, "expected quiet as True or False"),
        *(({"steps": None, "epochs": value}, "expected epochs as a number") for value in (1e308, 10**400, -1)),
    ],
)
def test_values_that_cannot_be_are_named(fake, options, message):
    with pytest.raises(TuningError, match=message):
        run(model := fake(), **options)
    assert not model.seen


def test_epochs_are_bounded():
    assert steps_of(2, 40, 16) == 5
    with pytest.raises(TuningError, match="expected epochs as a number above 0, at most 1,000,000,000"):
        steps_of(1e10, 40, 16)


def test_seeds_and_numbers_beyond_all_bounds_are_named():
    for make in (lambda: zoo.load("gat", seed=2**70), lambda: zoo.wrap(torch.nn.Linear(2, 2), lora=1, seed=2**70)):
        with pytest.raises(ZooError, match=r"expected a whole number as seed, below 2\*\*64"):
            make()
    with pytest.raises(ZooError, match="as seed"):
        zoo.load("gat", device="meta").add_adapter("x", 2, seed="x")
    with pytest.raises(AdapterError, match="rank"):
        zoo.load("gat", device="meta", lora=10**9)
    with pytest.raises(ZooError, match="at most 16,777,216"):
        SampleRequest(10**18)
    with pytest.raises(DataError, match="at most 16,777,216"):
        BatchRequest(10**9)
    with pytest.raises(DataError, match="as seed"):
        BatchRequest(1, seed=2**70)


def test_data_lose_their_graph_and_nothing_trains_them():
    leaf = torch.rand(20, 3, 32, 32, requires_grad=True)
    labels = torch.arange(20) % 26
    model = zoo.load("vit", lora=2, seed=0, device="cpu")
    for data in ((leaf, labels), (leaf * 1, labels), zoo.Data((leaf * 1, labels))):
        model.tune(data, steps=2, batch_size=4, quiet=True)
    assert leaf.grad is None
    plain = {"x": [torch.rand(2)], "y": ("a", 1)}
    assert without_gradients(plain) is plain
    mixed = without_gradients({"x": [leaf], "y": ("a", 1)})
    assert not mixed["x"][0].requires_grad
    assert mixed["y"] == ("a", 1)


def test_data_are_known_by_their_content(tmp_path, monkeypatch):
    from torch_geometric.data import Data

    def graph(label=1, **more):
        edges = torch.tensor([[0, 1], [1, 2]])
        return Data(x=torch.ones(3, 2), edge_index=edges, y=torch.tensor([0, 1, label]), **more)

    monkeypatch.setattr("zoo.tuning.fingerprint._WHOLE", 1 << 10)
    file, large = tmp_path / "a.txt", tmp_path / "b.bin"
    file.write_text("one")
    large.write_bytes(bytes(10_000))
    found = [fingerprint(data) for data in (graph(), graph(2), graph(edge_attr=torch.ones(2, 1)), file, large, None)]
    file.write_text("two")
    large.write_bytes(bytes(9_999) + b"1")
    assert fingerprint(graph()) == found[0]
    found += [fingerprint(data) for data in (file, large, zoo.Data(graph(), seed=1), [1, "a"], [1])]
    assert fingerprint(zoo.Data(graph())) == found[0]
    assert fingerprint(zoo.Data(file)) == fingerprint(file)
    assert len(set(found)) == len(found)
