"""The package as a third party would see it."""

from __future__ import annotations

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


def test_the_embedded_model_in_four_bits():
    footprint = zoo.load("stylegan", device="meta", bits=4).footprint()
    assert footprint.quantized_share > 0.985
    assert footprint.bytes < 0.28 * footprint.bytes_16bit
