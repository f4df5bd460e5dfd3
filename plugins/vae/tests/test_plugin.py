"""The package as a third party would see it."""

from __future__ import annotations

from pathlib import Path

import torch

from zoo.testing import conformance

HERE = Path(__file__).resolve().parents[1]

test_promise = conformance("vae")


def test_embedded_files_are_small_half_precision_and_listed():
    from safetensors import safe_open

    from zoo.storage.sums import verify

    folder = HERE / "zoo_vae" / "embedded"
    path = folder / "diffusion_pytorch_model.safetensors"
    assert path.stat().st_size < 6_000_000
    with safe_open(path, framework="pt") as file:
        kinds = {file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118
    assert kinds == {torch.float16}
    verify(folder, sorted(file for file in folder.iterdir() if file.name != "SHA256SUMS"))
