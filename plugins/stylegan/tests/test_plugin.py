"""The package as a third party would see it."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import torch

import zoo
from zoo.testing import conformance

HERE = Path(__file__).resolve().parents[1]

test_promise = conformance("stylegan")


def test_embedded_files_are_small_half_precision_and_listed():
    from safetensors import safe_open

    folder = HERE / "zoo_stylegan" / "embedded"
    path = folder / "model.safetensors"
    assert path.stat().st_size < 6_000_000
    with safe_open(path, framework="pt") as file:
        kinds = {file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118
    assert kinds == {torch.float16}
    assert "model.safetensors" in (folder / "SHA256SUMS").read_text()


def test_pretraining_writes_a_model_that_loads(tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("pretrain_stylegan", HERE / "pretrain.py")
    pretrain = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pretrain)
    monkeypatch.setattr(pretrain, "pixel_distance", lambda *_: 0.5)
    out = tmp_path / "embedded"
    options = {"minutes": 1, "steps": 3, "save_every": 0, "batch": 4, "lr": 1e-3, "gamma": 1.0, "bf16": False}
    pretrain.train(argparse.Namespace(**options, device="cpu", out=out, seed=4, start=None))
    pretrain.train(argparse.Namespace(**options, device="cpu", out=out, seed=4, start=out))
    assert "seed 4: 3 steps" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["embedded"]
    model = zoo.load("stylegan", weights=str(out), device="cpu")
    assert model.sample(1, seed=0, labels="Q").captions == ["Q"]


def test_the_embedded_model_in_four_bits():
    footprint = zoo.load("stylegan", device="meta", bits=4).footprint()
    assert footprint.quantized_share > 0.985
    assert footprint.bytes < 0.28 * footprint.bytes_16bit
