"""New heads by name and shape: what is new, what stays, and what is refused. With an architecture of this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import zoo
from zoo.loading import resolve
from zoo.plugin import hooks

NAMES = ["ant", "bee", "cat", "dog"]


class Net(nn.Module):
    """A body, a layer that only classifiers have, and a head over the classes."""

    def __init__(self, count: int, hidden: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8))
        self.pre = nn.Linear(8, 8) if hidden else None
        self.out = nn.Linear(8, count)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x)
        return self.out(x if self.pre is None else self.pre(x).relu())


Open = Callable[..., zoo.Model]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "net"
    place.mkdir()
    save_file(Net(4, False).state_dict(), place / "model.safetensors")
    (place / "config.json").write_text(json.dumps({"names": NAMES}))
    return place


@pytest.fixture
def open_(monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    plugin = ModuleType("zoo_net")

    def construct(entry: zoo.Entry) -> nn.Module:
        head = entry.head
        if head is None or head.task is None:
            return Net(len(entry.config["names"]), False)
        return Net(head.count, head.task == "multilabel")

    def heads(entry: zoo.Entry) -> zoo.Heads:
        names = entry.config["names"]
        return zoo.Heads(("classify", "multilabel"), zoo.Head("classify", tuple(names), len(names)))

    def loss(model: zoo.Model, batch: dict) -> torch.Tensor:
        return nn.functional.cross_entropy(model.module(batch["x"]), batch["y"])

    def batches(model: zoo.Model, data: dict, request: zoo.BatchRequest) -> Iterator[dict]:
        from zoo.data.stream import stream

        return stream(data, request)

    for hook in (construct, heads, loss, batches):
        setattr(plugin, hook.__name__, zoo.hookimpl(hook))
    monkeypatch.setattr(resolve, "_recognised", lambda name, config: "net")
    hooks.reset()
    hooks.register(plugin, "net")
    yield lambda place, **options: zoo.load(str(place), device="cpu", **options)
    hooks.reset()


def test_the_body_stays_and_the_head_is_new(open_: Open, folder: Path) -> None:
    stored = load_file(folder / "model.safetensors")
    model = open_(folder, classes=["x", "y", "z"], lora=2, bits=4)
    assert model.entry.head == zoo.Head("classify", ("x", "y", "z"), 3, modules=("out",))
    told = {one.name: one for one in model.weights()}
    assert told["out.weight"].bits == 32
    assert told["body.0.weight"].bits < 32
    trained = {name for name, _ in model.trainable_parameters()}
    assert {"out.weight_store.updates.default.weight", "out.bias_store.updates.default.weight"} <= trained
    plain = open_(folder, classes=["x", "y", "z"]).module.state_dict()
    assert all(torch.equal(plain[name], stored[name]) for name in stored if name.startswith("body"))
    again = open_(folder, classes=3).module.state_dict()
    assert all(torch.equal(plain[name], again[name]) for name in plain)  # the same for everyone
    other = open_(folder, classes=3, seed=7).module.state_dict()
    assert not torch.equal(plain["out.weight"], other["out.weight"])


def test_layers_that_only_the_head_has_are_new_too(open_: Open, folder: Path) -> None:
    model = open_(folder, classes=4, task="multilabel", lora=2)
    assert model.entry.head is not None
    assert model.entry.head.modules == ("out", "pre")


@pytest.mark.parametrize("classes", [NAMES, 4])
def test_a_head_that_is_there_already_stays(open_: Open, folder: Path, classes: object) -> None:
    model = open_(folder, classes=classes)
    stored = load_file(folder / "model.safetensors")
    assert model.entry.head is None
    assert all(torch.equal(tensor, stored[name]) for name, tensor in model.state_dict().items())


def test_classes_that_the_checkpoint_knows_keep_their_rows(open_: Open, folder: Path) -> None:
    stored = load_file(folder / "model.safetensors")
    found = open_(folder, classes=["dog", "new", "ant"]).state_dict()
    for name in ("out.weight", "out.bias"):
        assert torch.equal(found[name][[0, 2]], stored[name][[3, 0]])
    turned = open_(folder, classes=NAMES[::-1])
    x = torch.randn(5, 6)
    assert torch.allclose(turned.module(x), open_(folder).module(x).flip(1))


def test_other_names_are_other_classes_even_if_they_are_as_many(open_: Open, folder: Path) -> None:
    stored = load_file(folder / "model.safetensors")
    assert not torch.equal(open_(folder, classes=["a", "b", "c", "d"]).state_dict()["out.weight"], stored["out.weight"])


def test_a_weight_of_the_body_that_is_missing_is_missed(open_: Open, folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["body.2.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(zoo.CheckpointError, match=r"lacks 1 \(body.2.weight\)"):
        open_(folder, classes=3)


def test_a_body_alone_gets_a_head(open_: Open, folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensor for name, tensor in tensors.items() if "body" in name}, folder / "model.safetensors")
    model = open_(folder, classes=["ant", "x"], lora=2)
    assert model.entry.head is not None
    assert model.entry.head.modules == ("out",)


def test_meta_and_random_weights(open_: Open, folder: Path) -> None:
    empty = zoo.load(str(folder), device="meta", classes=3, lora=2, bits=4)
    assert empty.entry.head is not None
    assert empty.entry.head.modules == ("out",)
    fresh = open_(folder, classes=3, weights="random", seed=0, lora=2)
    assert fresh.module.out.weight.shape == (3, 8)


@pytest.mark.parametrize("bits", [None, 4])
def test_an_adapter_brings_its_head_along(open_: Open, folder: Path, tmp_path: Path, bits: int | None) -> None:
    model = open_(folder, classes=["x", "ant"], lora=2, bits=bits, seed=0)
    data = {"x": torch.randn(16, 6), "y": torch.randint(0, 2, (16,))}
    before = model.module.out.weight.detach() + 0
    model.tune(data, steps=3, batch_size=8, lr=1e-2, quiet=True)
    assert not torch.equal(before, model.module.out.weight + 0)
    model.save_adapter(tmp_path / "saved")
    wanted = model.eval().module(data["x"])
    for loaded in (open_(tmp_path / "saved", bits=bits), open_(folder, lora=str(tmp_path / "saved"), bits=bits)):
        assert torch.equal(loaded.module(data["x"]), wanted)
        assert loaded.entry.head == model.entry.head
    loaded.add_adapter("second", 2)
    assert "out" in (loaded.adapters["second"].modules_to_save or ())
    for other in ({"classes": ["x", "y"]}, {"classes": 3}, {"classes": 2, "task": "multilabel"}):
        with pytest.raises(zoo.AdapterError, match="was trained with the head classify \\(x, ant\\)"):
            open_(folder, lora=str(tmp_path / "saved"), **other)
    with pytest.raises(zoo.AdapterError, match="load both together"):
        open_(folder).add_adapter("late", str(tmp_path / "saved"))


def test_every_kind_of_adapter_trains_it_or_says_that_it_cannot(open_: Open, folder: Path) -> None:
    for lora in (zoo.LoHa(rank=2), zoo.Full(targets=["body.0"]), zoo.Full(targets=r"body\.0\.weight"), zoo.Full("all")):
        model = open_(folder, classes=3, lora=lora)
        assert any(name.startswith("out.weight_store") for name, _ in model.trainable_parameters())
    with pytest.raises(zoo.AdapterError, match="cannot train the new head"):
        open_(folder, classes=3, lora=zoo.TrainableTokens(token_indices=[0], targets=["body.0"]))


def test_a_run_goes_on_with_the_same_classes_only(open_: Open, folder: Path, tmp_path: Path) -> None:
    data = {"x": torch.randn(16, 6), "y": torch.randint(0, 2, (16,))}
    settings = {"batch_size": 4, "quiet": True, "out": tmp_path / "run"}
    open_(folder, classes=["x", "y"], lora=2, seed=0).tune(data, steps=2, **settings)
    with pytest.raises(zoo.TuningError, match="head was"):
        open_(folder, classes=["y", "x"], lora=2, seed=0).tune(data, steps=2, resume=True, **settings)
    open_(folder, classes=["x", "y"], lora=2, seed=0).tune(data, steps=2, resume=True, **settings)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"classes": ["a", "a"]}, "each name once"),
        ({"classes": "a,b"}, "a list of names or a number"),
        ({"classes": ["a"]}, "at least two"),
        ({"classes": 0}, "a number from 1"),
        ({"classes": []}, "a list of names"),
        ({"classes": ["a", ""]}, "a list of names"),
        ({"task": "tokens"}, "needs classes"),
        ({"task": "clasify", "classes": 2}, "mean 'classify'"),
        ({"task": "tokens", "classes": 2}, "makes heads for 'classify', 'multilabel'"),
        ({"image_size": 32}, "takes no image_size="),
        ({"image_size": (1, 2, 3)}, "height, width"),
        ({"channels": 0}, "at least 1"),
    ],
)
def test_what_cannot_be_is_said(open_: Open, folder: Path, arguments: dict, said: str) -> None:
    with pytest.raises(zoo.ZooError, match=said) as caught:
        open_(folder, **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "head",
    [{"task": "classify", "classes": ["a"]}, {"task": "x", "classes": 2}, 3, {"task": "classify", "classes": 10**9}],
)
def test_a_damaged_record_of_a_head(open_: Open, folder: Path, tmp_path: Path, head: object) -> None:
    model = open_(folder, classes=["x", "y"], lora=2)
    model.save_adapter(tmp_path / "saved")
    record = json.loads((tmp_path / "saved" / "zoo.json").read_text())
    record["base"]["head"] = head
    (tmp_path / "saved" / "zoo.json").write_text(json.dumps(record))
    with pytest.raises(zoo.AdapterError, match="head"):
        open_(tmp_path / "saved")


def test_an_entry_is_the_same_without_its_head(open_: Open, folder: Path) -> None:
    model = open_(folder, classes=3)
    assert replace(model.entry, head=None) == open_(folder).entry
