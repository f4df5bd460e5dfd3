"""The package as a third party would see it."""

from __future__ import annotations

from pathlib import Path

import torch

import zoo
from zoo.testing import conformance

HERE = Path(__file__).resolve().parents[1]

test_promise = conformance("gat", batch_size=16)


def test_embedded_files_are_small_half_precision_and_listed():
    from safetensors import safe_open

    from zoo.storage.sums import verify

    folder = HERE / "zoo_gat" / "embedded"
    path = folder / "model.safetensors"
    assert path.stat().st_size < 6_000_000
    with safe_open(path, framework="pt") as file:
        kinds = {file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118
    assert kinds == {torch.float16}
    verify(folder, sorted(file for file in folder.iterdir() if file.name != "SHA256SUMS"))


def test_facts_name_features_layers_and_classes():
    from zoo.plugin import hooks

    facts = hooks.describe(zoo.load("gat", device="meta").entry)
    assert facts["features"] == "256"
    assert facts["layers"] == "2, 128 channels, 8 heads"
    assert facts["classes"].startswith("26: A B")
