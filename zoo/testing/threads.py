"""Checks of an architecture's models in several threads at once: what each gives is what it gives alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from zoo.testing.compare import loss_of, perturb, same
from zoo.testing.drawing import GENERATOR
from zoo.testing.failures import require
from zoo.testing.promise import promise
from zoo.testing.subject import PluginUnderTest

LIMIT = 600.0  # seconds
SHARED = "keep what belongs to one call in local variables, not on the module nor in a library's settings"


@promise("sample", "the same samples from two models in two threads at once as from one after the other", GENERATOR)
def samples_at_once(subject: PluginUnderTest) -> None:
    other = subject.adapted_copy()
    options = subject.options.sample
    alone = [subject.samples.data, subject.sample(2, 2).data]
    before = torch.get_rng_state()
    both = at_once(
        lambda: subject.sample(2, 1).data,
        lambda: other.sample(2, seed=2, **options).data,
    )
    require(all(map(same, both, alone)), "other samples than from the same seed alone")
    require(torch.equal(torch.get_rng_state(), before), "torch's global random state was drawn from or seeded")


@promise("loss", "each thread to have the adapters that it asks for, whatever others ask for and change", SHARED)
def adapters_at_once(subject: PluginUnderTest) -> None:
    model = subject.adapted_copy()
    perturb(model)
    (name,) = model.adapters
    states = [loss_of(model, subject.batch)]
    model.deactivate()
    states.append(loss_of(model, subject.batch))

    def change() -> None:
        for _ in range(3):
            model.activate(name)
            model.deactivate()

    found = at_once(change, *[lambda: [loss_of(model, subject.batch) for _ in range(3)]] * 2)
    require(all(value in states for values in found[1:] for value in values), "a loss of neither adapters nor base")


@promise(
    "construct", "loading to be seen by no other thread, and two loads at once to give what each gives alone", SHARED
)
def loads_at_once(subject: PluginUnderTest) -> None:
    ended = threading.Event()
    odd: list[nn.Module] = []

    def load() -> dict[str, Any]:
        try:
            return subject.load().state_dict()
        finally:
            ended.set()

    def build() -> None:
        while not ended.is_set():
            layer = nn.Module()
            layer.weight = nn.Parameter(torch.empty(1))
            if layer.weight.is_meta or layer.weight.dtype is not dtype:
                odd.append(layer)
            ended.wait(1e-3)

    dtype, before = torch.get_default_dtype(), torch.get_rng_state()
    first, second, _ = at_once(load, load, build)
    require(not odd, "a layer that another thread built has parameters on meta, or of another dtype")
    require(torch.equal(torch.get_rng_state(), before), "torch's global random state was drawn from or seeded")
    expected = subject.plain.state_dict()
    require(all(same(state, expected) for state in (first, second)), "other weights than loaded alone")


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """Return what calls return that run in a thread each.

    Raises:
        Exception: what the first of them raised.
        CheckFailed: one does not end.
    """
    results: list[Any] = [None] * len(calls)
    errors: list[BaseException] = []

    def run(number: int, call: Callable[[], Any]) -> None:
        try:
            results[number] = call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=pair, daemon=True) for pair in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    if errors:
        raise errors[0]
    require(not any(thread.is_alive() for thread in threads), f"a call that does not end in {LIMIT:.0f} s")
    return results


CHECKS = (samples_at_once, adapters_at_once, loads_at_once)
