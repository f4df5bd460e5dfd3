"""A model's folder: written, with digests, and read back."""

from __future__ import annotations

import json
import subprocess

import pytest
import torch
from safetensors.torch import load_file

from zoo import CheckpointError, Entry, checkpoint
from zoo.storage.model_folder import write_digests, write_model


def test_a_folder_holds_configuration_weights_and_digests(tmp_path):
    weight = torch.arange(6.0).view(2, 3).T  # not contiguous
    write_model(tmp_path, {"size": 3}, {"a": weight, "b": weight})
    write_digests(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == {"size": 3}
    assert torch.equal(load_file(tmp_path / "model.safetensors")["b"], weight)
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=tmp_path, check=True)
    read = dict(checkpoint.tensors(Entry("toy", "toy", folder=tmp_path)))
    assert torch.equal(read["a"], weight)


def test_another_weight_than_was_written_is_refused(tmp_path):
    write_model(tmp_path, None, {"a": torch.ones(2)}, weights="pytorch_model.safetensors")
    assert not (tmp_path / "config.json").exists()
    write_digests(tmp_path)
    write_digests(tmp_path)  # does not list itself
    assert (tmp_path / "SHA256SUMS").read_text().count("\n") == 1
    write_model(tmp_path, None, {"a": torch.zeros(2)}, weights="pytorch_model.safetensors")
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.tensors(Entry("toy", "toy", folder=tmp_path))
