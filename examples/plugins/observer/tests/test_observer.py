"""The observer: every hook timed and logged, every answer passed on, a summary at the end."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import torch

import zoo
import zoo_observer
from zoo.plugin import hooks
from zoo.testing import conformance


class Slow:
    """A plugin with answers that can be told apart, one of which takes its time."""

    facts = {"who": "slow"}  # noqa: RUF012

    @zoo.hookimpl
    def describe(self, entry):
        time.sleep(0.02)
        return self.facts

    @zoo.hookimpl
    def quantize(self, weight):
        return weight

    @zoo.hookimpl
    def loss(self, batch):
        raise zoo.DataError("expected a batch")

    @zoo.hookimpl
    def batches(self):
        yield from ({"x": n} for n in range(3))


class Bare:
    entry = zoo.Entry("mine", "slow")


@pytest.fixture
def watched() -> Iterator[None]:
    """The plugin above, and the observer switched on."""
    hooks.reset()
    hooks.register(Slow(), "slow")
    hooks.observe("observer")
    zoo_observer.reset()
    yield
    zoo_observer.reset()
    hooks.reset()


def test_it_wraps_every_hook_of_the_contract():
    assert hooks.implemented("observer") == hooks.HOOKS
    assert hooks.observes("observer")


@pytest.mark.usefixtures("watched")
def test_answers_and_errors_pass_through_and_are_timed(caplog):
    caplog.set_level(logging.DEBUG, "zoo_observer")
    weight = torch.randn(3, 4)
    assert hooks.quantize(Bare.entry, "a.weight", weight, zoo.Quantization(4)) is weight
    assert hooks.describe(Bare.entry) == Slow.facts
    assert [batch["x"] for batch in hooks.batches(Bare(), None, zoo.BatchRequest(1))] == [0, 1, 2]
    with pytest.raises(zoo.DataError, match="expected a batch"):
        hooks.loss(Bare(), None)
    took = zoo_observer.seconds()
    assert {hook: len(times) for hook, times in took.items()} == {"quantize": 1, "describe": 1, "batches": 1, "loss": 1}
    assert 0.02 <= took["describe"][0] < 5
    assert took["quantize"][0] < 0.02
    said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith("quantize(a.weight) → Tensor, ")
    assert said[1].startswith("describe(mine) → dict, ")
    assert said[-1].startswith("loss(mine) → DataError, ")
    lines = zoo_observer.summary().splitlines()
    assert lines[0].split() == ["hook", "calls", "total", "s", "mean", "ms"]
    assert lines[1].split()[:2] == ["describe", "1"]  # the slowest
    assert float(lines[1].split()[3]) == pytest.approx(1e3 * took["describe"][0], abs=1e-3)


@pytest.mark.usefixtures("watched")
def test_a_model_loads_learns_and_evaluates_as_it_does_unobserved():
    def figures() -> tuple[list[float], dict[str, float]]:
        model = zoo.load("gat", bits=4, lora=2, device="cpu", seed=0)
        return model.tune(steps=2, batch_size=200, seed=0).losses, model.evaluate()

    observed = figures()
    calls = {hook: len(times) for hook, times in zoo_observer.seconds().items()}
    assert calls["construct"] == calls["evaluate"] == calls["batches"] == 1
    assert calls["loss"] == 2
    assert calls["inject_adapter"] >= calls["quantize"] > 3  # small ones are not quantized
    hooks.reset()
    assert figures() == observed
    assert {hook: len(times) for hook, times in zoo_observer.seconds().items()} == calls


def test_the_environment_switches_it_on_and_the_summary_comes_at_the_end():
    command = [sys.executable, "-m", "zoo", "info", "gat"]  # asks for facts, without a model
    shown = {}
    for names in ("observer", ""):
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "ZOO_OBSERVE": names})
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("name")
        shown[names] = [line.split()[0] for line in done.stderr.splitlines()]
    assert shown[""] == []
    header, *called = shown["observer"]  # the slowest first
    assert header == "hook"
    assert sorted(called) == ["describe", "heads", "sample_options"]


@pytest.mark.usefixtures("watched")
def test_watching_costs_little():
    def once(calls: int = 2000) -> float:
        weight, scheme = torch.ones(1), zoo.Quantization(4)
        start = time.perf_counter()
        for _ in range(calls):
            hooks.quantize(Bare.entry, "w", weight, scheme)
        return (time.perf_counter() - start) / calls

    watched = min(once() for _ in range(5))
    hooks.reset()
    hooks.register(Slow(), "slow")
    plain = min(once() for _ in range(5))
    assert watched - plain < 100e-6  # measured: 1.3 µs


test_promise = conformance("observer")
