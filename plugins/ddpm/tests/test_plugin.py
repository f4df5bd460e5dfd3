"""The package as a third party would see it."""

from __future__ import annotations

from pathlib import Path

import torch

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
