"""The batches of a step among processes, and among others when a run goes on."""

from __future__ import annotations

import itertools

import pytest

from zoo import TuningError
from zoo.tuning.division import KEY, Division, divided, divided_then


@pytest.mark.parametrize(("batches", "processes"), itertools.product((1, 2, 3, 8), (1, 2, 3)))
def test_every_batch_is_of_one_process(batches, processes):
    for step in range(3):
        own = [Division(4, batches, process, processes).own(step) for process in range(processes)]
        assert sorted(itertools.chain(*own)) == list(range(step * batches, (step + 1) * batches))


@pytest.mark.parametrize(
    ("then", "accumulated", "processes", "expected"),
    [
        ((8, 2, 2), 2, 1, (8, 4)),  # 2 processes, then 1: it takes the batches of both
        ((8, 2, 1), 2, 2, (8, 2)),
        ((8, 1, 1), 1, 2, (4, 2)),  # fewer batches than processes: they are cut
        ((8, 1, 3), 1, 2, (8, 3)),  # not evenly
        ((8, 1, 2), 2, 1, (8, 2)),  # other options with as many items
        ((8, 4, 1), 1, 4, (8, 4)),
    ],
)
def test_a_step_keeps_its_items_when_a_run_goes_on(then, accumulated, processes, expected):
    size, before, many = then
    last = {"batch_size": size, "gradient_accumulation_steps": before, "processes": many}
    found = divided(size, accumulated, 0, processes, last)
    assert (found.batch_size, found.batches) == expected
    assert found.items == divided_then(last).items == divided_then({KEY: list(expected)}).items


def test_items_that_cannot_be_shared_are_an_error():
    last = {"batch_size": 8, "gradient_accumulation_steps": 1, "processes": 1}
    with pytest.raises(TuningError, match=r"one batch of 8 in a step, which 3 processes cannot share.*divides 8"):
        divided(8, 1, 0, 3, last)
