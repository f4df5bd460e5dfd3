"""The table `pretrain` of an entry."""

from __future__ import annotations

from pathlib import Path

import pytest

import zoo
from zoo.catalog.registry import read
from zoo.errors import RegistryError

ENTRY = '[toy]\nplugin = "toy"\nsummary = "a toy"\nlicense = "MIT"\n[toy.pretrain]\n'


def pretrain(folder: Path, text: str) -> dict:
    path = folder / "registry.toml"
    path.write_text(ENTRY + text)
    (entry,) = read(path)
    return entry.pretrain


def test_the_table_is_arguments_of_tune(tmp_path):
    text = 'data = "letters:sans"\nminutes = 2\nlr = 1e-3\nbetas = [0, 0.99]\ngrad_clip = false\nschedule = "wsd"\n'
    assert pretrain(tmp_path, text) == {
        "data": "letters:sans",
        "minutes": 2,
        "lr": 1e-3,
        "betas": (0, 0.99),
        "grad_clip": None,
        "schedule": "wsd",
    }
    assert pretrain(tmp_path, "grad_clip = 0.5\n") == {"grad_clip": 0.5}
    assert pretrain(tmp_path, "") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ema_deacy = 0.9", r"\[toy\] pretrain\.ema_deacy: unknown key.*Did you mean 'ema_decay'"),
        ("steps = 5", r"pretrain\.steps: unknown key"),
        ('lr = "high"', r"pretrain\.lr: expected a number, got 'high'"),
        ("lr = true", r"pretrain\.lr: expected a number, got True"),
        ("batch_size = 1.5", r"pretrain\.batch_size: expected a whole number, got 1.5"),
        ("betas = [0.9]", r"pretrain\.betas: expected a list of two numbers, got \[0.9\]"),
        ('betas = [0.9, "x"]', r"pretrain\.betas: expected a list of two numbers"),
        ("grad_clip = true", r"pretrain\.grad_clip: expected a number, or false for none, got True"),
    ],
)
def test_keys_and_types_are_checked(tmp_path, text, message):
    with pytest.raises(RegistryError, match=message):
        pretrain(tmp_path, text)


def test_every_model_that_carries_weights_says_how_it_is_trained():
    carried = [entry for entry in zoo.entries() if entry.weights == "embedded"]
    assert len(carried) >= 7
    assert [entry.name for entry in carried if not {"data", "minutes", "lr", "batch_size"} <= set(entry.pretrain)] == []
