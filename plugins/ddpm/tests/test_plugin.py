"""The package as a third party would see it."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import torch
from diffusers import UNet2DModel

import zoo
from zoo.testing import conformance

HERE = Path(__file__).resolve().parents[1]

test_promise = conformance("ddpm", sample={"steps": 2})


def test_embedded_files_are_small_and_half_precision():
    from safetensors import safe_open

    folder = HERE / "zoo_ddpm" / "embedded"
    path = folder / "diffusion_pytorch_model.safetensors"
    assert path.stat().st_size < 6_000_000
    with safe_open(path, framework="pt") as file:
        kinds = {file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118
    assert kinds == {torch.float16}
    assert (folder / "config.json").is_file()
    assert (folder / "scheduler_config.json").is_file()


def test_pretraining_writes_a_model_that_loads(tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("pretrain_ddpm", HERE / "pretrain.py")
    pretrain = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pretrain)
    monkeypatch.setattr(pretrain, "noise_error", lambda *_: 0.5)
    out = tmp_path / "embedded"
    options = {"minutes": 1, "steps": 3, "save_every": 0, "batch": 2, "lr": 1e-3, "device": "cpu", "out": out}
    pretrain.train(argparse.Namespace(**options, seed=4))
    assert "seed 4: 3 steps" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["embedded"]
    model = zoo.load("ddpm", weights=str(out), device="cpu")
    assert model.sample(1, seed=0, steps=2, labels="Q").captions == ["Q"]
    assert UNet2DModel.from_pretrained(out).config.num_class_embeds == 26
