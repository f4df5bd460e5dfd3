"""The global random state: kept for a while, saved and restored, and iterators that draw beside it."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

import numpy as np
import torch

from zoo.torch_state.rng import (
    IsolatedIterator,
    RandomState,
    preserve_rng,
    random_state,
    seed_everything,
    set_random_state,
)

CPU = torch.device("cpu")


def draw() -> tuple[float, ...]:
    """The next number of each global generator; NumPy's and Python's normal ones keep a second number back."""
    return random.gauss(0, 1), float(np.random.randn()), float(torch.randn(()))  # noqa: NPY002


def test_one_seed_is_every_generators() -> None:
    with preserve_rng(CPU):
        seed_everything(5)
        first = draw()
        seed_everything(5)
        assert draw() == first
        seed_everything(2**32 + 6)  # more than NumPy takes
        assert not set(draw()) & set(first)


def test_nothing_that_is_drawn_inside_shows_outside() -> None:
    with preserve_rng(CPU):
        seed_everything(1)
        first = draw(), draw()
        seed_everything(1)
        begun = draw()
        with preserve_rng(CPU):
            seed_everything(2)
            draw()
        assert (begun, draw()) == first


def test_a_state_goes_on_where_it_was_saved_through_json_and_tensors() -> None:
    with preserve_rng(CPU):
        draw()
        state = random_state(CPU)
        expected = draw()
        scalars = json.loads(json.dumps(state.scalars()))
        set_random_state(RandomState.restored(state.tensors(), scalars), CPU)
        assert draw() == expected


def test_an_isolated_iterator_neither_hears_nor_disturbs_the_rest() -> None:
    def numbers() -> Iterator[tuple[float, ...]]:
        while True:
            yield draw()

    with preserve_rng(CPU):
        undisturbed = IsolatedIterator(numbers, 3)
        expected = [next(undisturbed) for _ in range(3)]
        seed_everything(7)
        without = draw(), draw()
        seed_everything(7)
        disturbed = IsolatedIterator(numbers, 3)
        found, drawn = [next(disturbed)], [draw()]
        found += [next(disturbed), next(disturbed)]
        assert (drawn[0], draw()) == without
        assert found == expected
