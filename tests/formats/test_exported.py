"""`model.export`: graphs that other programs run, compared with the model; folders; what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.formats import exported, graph

NAMES = ["gat", "gpt", "bert", "vit", "stylegan", "vae", "ddpm"]


def changed(model: zoo.Model) -> zoo.Model:
    """Return a model whose adapter counts."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, factor in model.trainable_parameters():
            factor.copy_(torch.randn(factor.shape, generator=generator) * 0.05)
    return model


@pytest.fixture
def small() -> zoo.Model:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 5)).eval()
    return changed(zoo.wrap(module, bits=4, lora=2))


@pytest.mark.parametrize("format", ["torch", "onnx"])
def test_a_file_has_the_weights_as_they_are_used(format: str, small: zoo.Model, tmp_path: Path) -> None:
    path, before = tmp_path / "sub" / "small", repr(list(small.weights()))
    done = small.export(path, format, inputs=torch.randn(4, 64))
    assert list(path.parent.iterdir()) == [path]
    assert done.inputs == {"input": (None, 64)}
    assert done.outputs == ("output",)
    assert done.error is not None
    assert done.error < done.tolerance == 1e-4
    assert "input [·, 64] → output" in str(done)
    x = torch.randn(7, 64)
    with torch.no_grad():
        wanted = small.module(x)
    assert torch.allclose(graph.outputs_of(path, {"input": x}, format)["output"], wanted, atol=1e-4)
    small.deactivate()
    with torch.no_grad():
        assert not torch.allclose(small.module(x), wanted, atol=1e-3)
    small.activate("default")
    assert repr(list(small.weights())) == before


@pytest.mark.parametrize("format", ["torch", "onnx"])
def test_a_file_with_other_outputs_is_not_kept(
    format: str, small: zoo.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(module: nn.Module) -> nn.Module:
        made = plain_copy(module)
        with torch.no_grad():
            made[2].bias.add_(1e-2)
        return made

    plain_copy = exported.plain_copy
    monkeypatch.setattr(exported, "plain_copy", damaged)
    path = tmp_path / "file"
    path.write_bytes(b"before")
    with pytest.raises(zoo.OutputError, match=r"of the largest from the model's, expected at most 0\.0001"):
        small.export(path, format, inputs=torch.randn(4, 64))
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]
    assert small.export(path, format, inputs=torch.randn(4, 64), tolerance=0.1).error > 1e-4


class Counts(nn.Module):
    """Has no form as a graph: what it does depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if float(x.sum()) > 0 else x


def test_what_is_refused(small: zoo.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(match: str, model: zoo.Model = small, format: str = "torch", **more: object) -> None:
        with pytest.raises(zoo.ZooError, match=match) as caught:
            model.export(tmp_path / "x", format, **more)
        assert "\n" not in str(caught.value)
        assert not list(tmp_path.iterdir())

    refused("expected one of 'native', 'packed', 'onnx', 'torch', 'gguf', got 'tf'", format="tf")
    refused("takes language models of transformers", format="gguf", converter=sys.executable)
    refused("give inputs=.*hook forward_pass")
    refused("no inputs of Sequential", inputs={"nothing": torch.ones(2, 64)})
    refused("there is no tensor among them", inputs=3)
    refused("tolerance: expected a number", inputs=torch.ones(2, 64), tolerance=-1)
    refused("are of files that are run", format="native", inputs=torch.ones(2, 64))
    refused("has no form as a program of torch.export: ", zoo.wrap(Counts(), bits=8), inputs=torch.ones(2, 64))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    refused(r"adapter-zoo\[export\]", format="onnx", inputs=torch.ones(2, 64))
    monkeypatch.undo()
    monkeypatch.setattr(graph, "LARGEST", 100)
    refused("holds at most 100 bytes", format="onnx", inputs=torch.ones(2, 64))


@pytest.mark.parametrize("name", NAMES)
def test_every_architecture_says_what_it_is_called_with(name: str) -> None:
    model = changed(zoo.load(name, bits=4, lora=2, device="cpu", seed=0))
    call = exported.calls_of(model, None)
    for count in (2, 3):
        one = call(count, 0)
        with torch.no_grad():
            wanted, got = one(model.module), one(exported.plain_copy(model.module))
        assert wanted.keys() == got.keys()
        for key, tensor in wanted.items():
            assert torch.allclose(tensor, got[key], atol=1e-4 * float(tensor.abs().max())), key
    same = call(3, 0)
    assert all(torch.equal(tensor, same.inputs[key]) for key, tensor in one.inputs.items())


@pytest.mark.slow
@pytest.mark.turns(7)
@pytest.mark.parametrize("format", ["torch", "onnx"])
@pytest.mark.parametrize("name", NAMES)
def test_every_architecture_has_a_file(name: str, format: str, tmp_path: Path) -> None:
    model = changed(zoo.load(name, bits=4, lora=2, device="cpu", seed=0))
    done = model.export(tmp_path / "file", format)
    assert done.error is not None
    assert done.error < done.tolerance
    assert any(size is None for sizes in (done.inputs or {}).values() for size in sizes)


def test_without_the_hook_a_file_has_the_call_of_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.load("gat", device="cpu")
    monkeypatch.setattr(exported.hooks, "forward_pass", lambda *_: None)
    call = exported.calls_of(model, None)
    one = call(2, 0)
    assert one.inputs.keys() == {"x", "edge_index"}
    assert one.inputs["x"].shape[1] == model.module.in_channels
    assert not torch.equal(one.inputs["x"], call(2, 1).inputs["x"])
    with torch.no_grad():
        assert one(model.module)["output"].shape[0] == len(one.inputs["x"])


def test_loops_of_a_graph_are_as_in_its_library() -> None:
    model = zoo.load("gat", device="cpu")
    call = exported.calls_of(model, None)(2, 0)
    edges = torch.cat([call.inputs["edge_index"], torch.tensor([[0, 3], [0, 3]])], 1)
    inputs = {**call.inputs, "edge_index": edges}
    with torch.no_grad():
        assert torch.allclose(call(model.module, inputs)["logits"], model.module(**inputs), atol=1e-5)
