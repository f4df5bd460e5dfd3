"""The package as a third party would see it."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import torch
from diffusers import AutoencoderKL

import zoo
from zoo.testing import conformance

HERE = Path(__file__).resolve().parents[1]

test_promise = conformance("vae")


def test_embedded_files_are_small_half_precision_and_listed():
    from safetensors import safe_open

    from zoo.storage.checkpoint import verify

    folder = HERE / "zoo_vae" / "embedded"
    path = folder / "diffusion_pytorch_model.safetensors"
    assert path.stat().st_size < 6_000_000
    with safe_open(path, framework="pt") as file:
        kinds = {file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118
    assert kinds == {torch.float16}
    verify(folder, sorted(file for file in folder.iterdir() if file.name != "SHA256SUMS"))


def test_pretraining_writes_a_model_that_loads(tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("pretrain_vae", HERE / "pretrain.py")
    pretrain = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pretrain)
    monkeypatch.setattr(pretrain, "held_out", lambda *_: (20.0, 12.0))
    out = tmp_path / "embedded"
    options = {"minutes": 1, "steps": 3, "save_every": 0, "batch": 2, "lr": 1e-3, "device": "cpu", "kl_weight": 1.0}
    pretrain.train(argparse.Namespace(**options, out=out, seed=4))
    assert "seed 4: 3 steps" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["embedded"]
    model = zoo.load("vae", weights=str(out), device="cpu")
    assert model.sample(1, seed=0).data.shape == (1, 1, 32, 32)
    assert AutoencoderKL.from_pretrained(out).config.latent_channels == 8
