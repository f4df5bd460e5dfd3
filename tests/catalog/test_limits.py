"""No number of a configuration is larger than any model's, whatever its key is called."""

from __future__ import annotations

from pathlib import Path

import pytest

import zoo
from zoo.catalog import discovery, limits
from zoo.errors import CheckpointError, PluginError


@pytest.mark.parametrize(
    "config",
    [
        {"n_layer": 5000},
        {"text_config": {"num_hidden_layers": 10**9}},
        {"depths": [2, 10**6]},
        {"anything": 10**9},
        {"num_train_timesteps": 10**7},
        {"block_out_channels": [32] * 5000},
        {"num_labels": 10**7},
        {"x": -(10**12)},
    ],
)
def test_absurd_numbers_are_refused(config: dict) -> None:
    with pytest.raises(CheckpointError, match=r"toy: .* more than any such model"):
        limits.check_config(config, None, "toy")


def test_real_ones_are_not() -> None:
    real = {
        "rope_theta": 10**9,
        "num_training_tokens": 10**13,
        "max_length": 10**30,
        "vocab_size": 256_000,
        "layers": 1000,
    }
    limits.check_config({**real, "id2label": {str(n): "x" for n in range(20_000)}, "ok": True, "s": "x"}, None, "toy")
    for entry in zoo.entries():
        limits.check_limits(entry)


def test_a_plugin_says_its_own_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = discovery.Claim("toy", "toy_package", "dist", "1")
    monkeypatch.setattr(discovery, "claims", lambda: {"toy": (claim,)})
    monkeypatch.setattr(discovery, "package_folder", lambda package: tmp_path)
    file = tmp_path / limits.FILE
    limits._limits.cache_clear()
    file.write_text("[most]\nlayers = 2\nfree = 1_000_000_000_000\n[longest]\nwidths = 3\n")
    limits.check_config({"num_layers": 2, "is_free": 10**11, "widths": [1, 2, 3]}, "toy", "toy")
    for config in ({"num_layers": 3}, {"widths": [1] * 4}):
        with pytest.raises(CheckpointError, match="more than any"):
            limits.check_config(config, "toy", "toy")
    for content, why in (("layers = 2", "expected the tables"), ("[most]\nlayers = 'x'", "a whole number from 1")):
        limits._limits.cache_clear()
        file.write_text(content)
        with pytest.raises(PluginError, match=why):
            limits.check_config({}, "toy", "toy")
    limits._limits.cache_clear()
