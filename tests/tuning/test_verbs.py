"""`Model.tune`: whose setting counts."""

from __future__ import annotations

import pytest

import zoo
from zoo.plugin import hooks
from zoo.tuning import loop
from zoo.tuning.result import TuneResult


@pytest.fixture
def seen(monkeypatch):
    """The arguments that the loop gets; nothing is trained."""
    calls = []

    def tune(model, data=None, **options):
        calls.append((data, options))
        return TuneResult((1.0,), 1, 1.0, 1, 1.0, 0, 1)

    monkeypatch.setattr(loop, "tune", tune)
    return calls


def test_the_users_word_goes_before_the_plugins_and_the_plugins_before_zoos(seen, monkeypatch):
    model = zoo.load("gat", lora=2)
    monkeypatch.setattr(hooks, "tuning", lambda entry: {"lr": 0.5, "ema_decay": 0.9, "grad_clip": 7.0})
    model.tune(steps=3)
    _, options = seen.pop()
    assert (options["lr"], options["ema_decay"], options["grad_clip"]) == (0.5, 0.9, 7.0)
    assert not {"batch_size", "betas", "warmup", "schedule", "weight_decay"} & set(options)  # zoo's own
    model.tune("letters:serif", steps=3, lr=0.1, ema_decay=0.0, grad_clip=None, betas=(0.5, 0.6), seed=4)
    data, options = seen.pop()
    assert data == "letters:serif"
    assert (options["lr"], options["ema_decay"], options["grad_clip"]) == (0.1, 0.0, None)
    assert (options["betas"], options["seed"], options["steps"]) == ((0.5, 0.6), 4, 3)


def test_a_run_is_recorded_with_the_adapter():
    model = zoo.load("gat", lora=2, seed=0)
    model.tune("letters:serif", steps=2, batch_size=64, quiet=True)
    assert model.records["default"]["training"][0]["steps"] == 2
