"""Streams of batches: complete, seeded, endless or one pass."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from zoo import BatchRequest, DataError
from zoo.data.stream import redrawn, stream


def _tensors(count: int) -> dict[str, torch.Tensor]:
    return {"images": torch.randn(count, 2), "labels": torch.arange(count)}


def test_training_sees_every_item_once_per_round_in_full_batches():
    tensors = _tensors(10)
    batches = list(islice(stream(tensors, BatchRequest(batch_size=4, seed=1)), 15))
    assert [len(batch["labels"]) for batch in batches] == [4] * 15
    order = torch.cat([batch["labels"] for batch in batches])
    for start in range(0, 60, 10):
        assert sorted(order[start : start + 10].tolist()) == list(range(10))
    assert order[:10].tolist() != order[10:20].tolist()
    for batch in batches:
        assert torch.equal(batch["images"], tensors["images"][batch["labels"]])


def test_the_seed_decides_the_order():
    def order(seed):
        stream_ = stream(_tensors(50), BatchRequest(batch_size=50, seed=seed))
        return next(iter(stream_))["labels"].tolist()

    assert order(3) == order(3)
    assert order(3) != order(4)


def test_a_batch_may_be_larger_than_the_data():
    batch = next(iter(stream(_tensors(3), BatchRequest(batch_size=8))))
    assert len(batch["labels"]) == 8
    assert set(batch["labels"].tolist()) == {0, 1, 2}


def test_other_splits_are_one_pass_in_order():
    tensors = _tensors(10)
    for _ in range(2):
        batches = list(stream(tensors, BatchRequest(batch_size=4, split="test", seed=9)))
        assert [len(batch["labels"]) for batch in batches] == [4, 4, 2]
        assert torch.equal(torch.cat([batch["images"] for batch in batches]), tensors["images"])


def test_absent_labels_are_left_out():
    batch = next(iter(stream({"images": torch.zeros(4, 1), "labels": None}, BatchRequest(batch_size=2))))
    assert list(batch) == ["images"]


def test_the_global_random_state_is_left_alone():
    tensors = _tensors(20)
    before = torch.get_rng_state()
    next(iter(stream(tensors, BatchRequest(batch_size=4))))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("tensors", "found"),
    [
        ({"images": torch.zeros(3, 1), "labels": torch.zeros(2)}, "images: 3, labels: 2"),
        ({"images": torch.zeros(0, 1)}, "hold nothing"),
        ({"images": None}, "got nothing"),
    ],
)
def test_errors_come_at_the_call(tensors, found):
    with pytest.raises(DataError, match=found):
        stream(tensors, BatchRequest(batch_size=2))


def test_data_are_drawn_anew_after_some_batches():
    seeds: list[int] = []

    def draw(seed):
        seeds.append(seed)
        return {"x": torch.full((6,), seed), "labels": None}

    found = list(islice(redrawn(draw, BatchRequest(batch_size=2, seed=7), batches=3), 7))
    assert [set(batch) for batch in found] == [{"x"}] * 7
    assert [int(batch["x"][0]) for batch in found] == [7_000_000] * 3 + [7_000_001] * 3 + [7_000_002]
    assert seeds == [7_000_000, 7_000_001, 7_000_002]
