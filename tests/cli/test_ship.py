"""The commands that write whole models: save and merge."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import zoo
from zoo.cli import main


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> zoo.Model:
    """Return a graph network in 4 bit with an adapter that counts, saved in `trained.folder`."""
    model = zoo.load("gat", bits=4, lora=2, device="cpu", seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, factor in model.trainable_parameters():
            factor.copy_(torch.randn(factor.shape, generator=generator) * 0.2)
    model.folder = model.save_adapter(tmp_path_factory.mktemp("saved") / "adapter")
    return model


def apart(one: nn.Module, other: nn.Module) -> float:
    x, edges = torch.randn(9, 256, generator=torch.Generator().manual_seed(1)), torch.tensor([[0, 1, 2], [1, 2, 0]])
    with torch.no_grad():
        return float((one(x, edges) - other(x, edges)).abs().max())


@pytest.mark.parametrize("verb", ["merge", "save"])
def test_an_adapter_becomes_part_of_the_model(
    verb: str, trained: zoo.Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "whole"
    words = [verb, "gat", "--lora", str(trained.folder), "--bits", "4", "--device", "cpu", "--out", str(out)]
    assert main([*words, "--digests", "--json"]) == 0
    said, progress = capsys.readouterr()
    facts = json.loads(said)
    assert facts["out"] == str(out)
    assert facts["files"] == {path.name: path.stat().st_size for path in out.iterdir()}
    assert "SHA256SUMS" in facts["files"]
    assert ("merged" in facts) == (verb == "merge")
    assert f"loading gat with {trained.folder} …" in progress
    assert f"writing {out} …" in progress
    assert apart(zoo.load(str(out), device="cpu").module, trained.module) < 1e-5


def test_a_packed_folder_says_what_merging_lost(
    trained: zoo.Model, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--lora", str(trained.folder), "--bits", "4", "--packed", "--device", "cpu"]
    assert main(["merge", "gat", *words, "--out", "four"]) == 0
    said, progress = capsys.readouterr()
    assert said == "four\n"
    assert "try it: zoo sample ./four" in progress
    assert main(["save", "gat", *words, "--out", "again", "--json"]) == 0
    assert 0 < json.loads(capsys.readouterr().out)["merged"]["error"] < 1
    first, second = (zoo.load(f"./{name}", device="cpu") for name in ("four", "again"))
    assert first.scheme == trained.scheme
    assert apart(first.module, second.module) == 0


def test_an_adapter_of_4_bit_on_full_precision_is_said_to_be_one(
    trained: zoo.Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["merge", "gat", "--lora", str(trained.folder), "--device", "cpu", "--out", str(tmp_path / "m")]) == 0
    assert "--bits 4 has just that" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["merge", "gat", "--out", "x"], 2, "--lora"),
        (["save", "gat"], 2, "--out"),
        (["save", "gat", "--lora", "8", "--out", "x"], 2, "the place of a saved one"),
        (["save", "gta", "--out", "x"], 1, "no model 'gta'"),
        (["merge", "gat", "--lora", "./none", "--out", "x"], 1, "none"),
    ],
)
def test_mistakes(
    words: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == code
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
