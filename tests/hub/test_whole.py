"""Whole models on the Hub: what is pushed, what its card says, what is loaded again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import zoo
from zoo.cli import main

from .server import Hub


def trained() -> zoo.Model:
    model = zoo.load("gat", bits=4, lora=2, device="cpu", seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, factor in model.trainable_parameters():
            factor.copy_(torch.randn(factor.shape, generator=generator) * 0.2)
    return model


def logits(model: zoo.Model) -> torch.Tensor:
    x, edges = torch.randn(9, 256, generator=torch.Generator().manual_seed(1)), torch.tensor([[0, 1, 2], [1, 2, 0]])
    with torch.no_grad():
        return model.module(x, edges)


def test_a_whole_model_comes_back(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = trained()
    folder = model.save_adapter(tmp_path / "adapter")
    words = ["push", "gat", "me/whole", "--whole", "--lora", str(folder), "--bits", "4", "--device", "cpu"]
    assert main([*words, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["repo"] == "me/whole"
    files = hub.repositories["me/whole"].head().files
    commits = len(hub.repositories["me/whole"].log())
    assert {"README.md", "config.json", "SHA256SUMS"} <= files.keys()
    card = files["README.md"].decode()
    assert 'zoo.load("me/whole")' in card
    assert "with default merged into it" in card
    assert "| parameters | " in card
    assert str(tmp_path) not in card
    again = zoo.load("me/whole", device="cpu")
    assert torch.allclose(logits(again), logits(model), atol=1e-5)
    assert main(words) == 0
    assert hub.repositories["me/whole"].head().files == files
    assert len(hub.repositories["me/whole"].log()) == commits


def test_packed_weights_stay_as_they_are(hub: Hub) -> None:
    model = zoo.load("gat", bits=4, device="cpu")
    model.push("me/four", whole=True, packed=True, samples=zoo.Samples(["one"], "text"))
    again = zoo.load("me/four", device="cpu")
    assert again.scheme == model.scheme
    assert torch.equal(logits(again), logits(model))
    card = hub.repositories["me/four"].head().files["README.md"].decode()
    assert "4 bit, nf4, as they are in memory" in card


def test_what_is_refused(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = trained()
    samples = zoo.Samples(["one"], "text")
    with pytest.raises(zoo.OutputError, match="adapters are active"):
        model.push("me/four", whole=True, packed=True, samples=samples)
    with pytest.raises(zoo.AdapterError, match="give one or the other"):
        model.push("me/four", "default", whole=True)
    with pytest.raises(zoo.AdapterError, match="packed=True is of a whole model"):
        model.push("me/four", packed=True)
    with pytest.raises(zoo.AdapterError, match="nothing could load it"):
        zoo.wrap(torch.nn.Linear(64, 64)).push("me/four", whole=True)
    model.push("me/four", samples=samples)
    with pytest.raises(zoo.HubError, match="holds an adapter"):
        model.push("me/four", whole=True, samples=samples)
    assert main(["push", "gat", "me/x", "--packed"]) == 2
    assert main(["push", "gat", "me/x"]) == 1
    assert "--whole" in capsys.readouterr().err
