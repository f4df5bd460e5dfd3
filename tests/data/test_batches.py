"""Batches that can be passed over: the ones after them are the same, and those passed over are not made."""

from __future__ import annotations

import pytest
import torch

import zoo
from zoo.data.batches import Batches, generator_of
from zoo.data.stream import redrawn, stream
from zoo.torch_state.rng import IsolatedIterator


def test_what_is_passed_over_is_not_made():
    made = []
    batches = Batches(range(9)).map(lambda row, number: made.append(row) or (row, number))
    batches.skip(3)
    assert next(batches) == (3, 3)
    batches.skip(2)
    assert next(batches) == (6, 6)
    assert made == [3, 6]
    with pytest.raises(StopIteration):
        batches.skip(3)


def test_the_rest_of_a_stream_is_the_same_after_passing_over():
    request = zoo.BatchRequest(3, "train", 5)

    def noisy():
        rows = stream({"x": torch.arange(7.0)}, request)
        return rows.map(lambda row, number: {**row, "z": torch.rand(3, generator=generator_of(5, number))})

    def fresh():
        return redrawn(lambda seed: {"x": torch.rand(6, generator=generator_of(seed, 0))}, request, batches=2)

    for make in (noisy, fresh, lambda: iter(list(zip(range(9), torch.rand(9), strict=True)))):
        torch.manual_seed(0)
        whole = IsolatedIterator(make, 0)
        expected = [next(whole) for _ in range(9)]
        torch.manual_seed(0)
        some = IsolatedIterator(make, 0)
        some.skip(2)
        assert _same(next(some), expected[2])
        some.skip(5)
        assert _same(next(some), expected[8])


@pytest.mark.parametrize("name", ["gat", "ddpm", "stylegan", pytest.param("gpt", marks=pytest.mark.slow)])
def test_a_plugins_batch_is_the_same_whichever_were_passed_over(name):
    model = zoo.load(name, device="cpu")
    whole, some = (iter(model.batches(batch_size=2, seed=3)) for _ in range(2))
    expected = [next(whole) for _ in range(4)]
    some.skip(3)
    assert _same(next(some), expected[3])


def _same(one, two) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(_same(one[name], two[name]) for name in one)
    return one == two
