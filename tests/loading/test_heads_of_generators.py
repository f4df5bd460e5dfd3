"""Classes of generators and of nodes: those that the checkpoint knows by name draw as before."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import zoo

OPTIONS = {"ddpm": {"steps": 2}, "stylegan": {}}


@pytest.mark.parametrize("name", ["ddpm", "stylegan"])
def test_known_classes_draw_as_before(name: str) -> None:
    options = OPTIONS[name]
    before = zoo.load(name, device="cpu").sample(2, seed=0, labels="HK", **options)
    found = zoo.load(name, classes=["K", "H"], device="cpu").sample(2, seed=0, labels="HK", **options)
    assert torch.allclose(found.data, before.data, atol=1e-4)
    assert found.captions == before.captions == ["H", "K"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddpm", "stylegan"])
def test_a_new_class_is_learnt_and_travels(name: str, tmp_path: Path) -> None:
    model = zoo.load(name, classes=["H", "heart"], lora=2, device="cpu", seed=0)
    data = (torch.rand(8, 1, 32, 32), torch.arange(8) % 2)
    new = model.entry.head.modules if model.entry.head else ()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items() if key.startswith(new)}
    model.tune(data, steps=2, batch_size=4, quiet=True)
    after = model.state_dict()
    assert before
    assert all(not torch.equal(after[key], tensor) for key, tensor in before.items())
    model.save_adapter(tmp_path / "saved")
    loaded = zoo.load(str(tmp_path / "saved"), device="cpu")
    options = OPTIONS[name]
    drawn = [one.sample(2, seed=0, **options) for one in (model, loaded)]
    assert torch.equal(drawn[0].data, drawn[1].data)
    assert drawn[1].captions == ["H", "heart"]
    model.save(tmp_path / "whole")
    whole = zoo.load(str(tmp_path / "whole"), device="cpu").sample(2, seed=0, labels="heart", **options)
    assert torch.allclose(whole.data, model.sample(2, seed=0, labels="heart", **options).data, atol=1e-4)


@pytest.mark.parametrize("task", ["classify", "multilabel"])
def test_a_new_last_layer_for_nodes(task: str, tmp_path: Path) -> None:
    from torch_geometric.data import Data

    model = zoo.load("gat", classes=["a", "b", "c"], task=task, lora=2, device="cpu", seed=0)
    nodes, edges = torch.rand(30, model.module.in_channels), torch.randint(0, 30, (2, 90))
    y = torch.arange(30) % 3 if task == "classify" else torch.randint(0, 2, (30, 3)).float()
    graph = Data(x=nodes, edge_index=edges, y=y)
    model.tune(graph, steps=2, batch_size=8, quiet=True)
    model.save_adapter(tmp_path / "saved")
    loaded = zoo.load(str(tmp_path / "saved"), device="cpu")
    wanted = model.eval().module(nodes, edges)
    assert wanted.shape == (30, 3)
    assert torch.equal(loaded.module(nodes, edges), wanted)
    assert loaded.sample(2, data=graph, seed=0).labels == ["a", "b", "c"]


def test_what_has_no_classes_says_so() -> None:
    with pytest.raises(zoo.ZooError, match="makes no new heads"):
        zoo.load("vae", classes=3)
    with pytest.raises(zoo.ZooError, match="takes no channels"):
        zoo.load("ddpm", channels=3)
