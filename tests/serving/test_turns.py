"""Who waits for whom in a runtime: told by the order of what happens, not by how long it takes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import zoo
from zoo.serving.runtime import Runtime
from zoo.serving.ticket import Ticket
from zoo.serving.turns import PASSES, Shares, in_turn
from zoo.serving.work import Limits, Work

BEAMS = {"prompt": "The", "max_new_tokens": 2, "num_beams": 2, "do_sample": False}


@pytest.fixture(scope="module")
def gpt() -> zoo.Model:
    return zoo.load("gpt", bits=4)


class Watched(Runtime):
    """A runtime that waits for `go`, writes down what it does, and whose clock goes on by 5 a batch and by 1 a step."""

    def __init__(self, *args: Any) -> None:
        self.time, self.log, self.drawn = 0.0, "", list[int]()
        self.go = threading.Event()
        super().__init__(*args)
        self._shares = Shares(lambda: self.time)

    def _turn(self) -> None:
        self.go.wait(60)
        super()._turn()

    def __enter__(self) -> Watched:
        return self

    def _draw(self, batch: list[Ticket]) -> None:
        self.time, self.log = self.time + 5, self.log + "B"
        self.drawn.append(len(batch))
        super()._draw(batch)

    def _step(self) -> None:
        self.time, self.log = self.time + 1, self.log + "s"
        super()._step()


@pytest.fixture
def watched(gpt: zoo.Model) -> Iterator[Watched]:
    with Watched(gpt, None, Limits(batch=16)) as runtime:
        yield runtime
        runtime.go.set()


def test_requests_of_one_adapter_wait_for_each_other_and_not_those_of_another() -> None:
    def ticket(adapter: str | None, n: int = 1) -> Ticket:
        return Ticket(Work(n=n, adapter=adapter), 9, lambda _: None)

    many = [ticket("a") for _ in range(4)]
    single, base = ticket("b"), ticket(None)
    assert in_turn([*many, single, base], []) == [many[0], single, base, *many[1:]]
    assert in_turn([*many, single], [ticket("b", 3)]) == [*many[:3], many[3], single]
    large = ticket("c", 2)
    after = ticket("c")
    assert in_turn([large, after, *many], []) == [large, many[0], many[1], after, *many[2:]]


def test_texts_and_batches_have_equal_time(gpt: zoo.Model, watched: Watched) -> None:
    watched.submit(Work({"prompt": "A", "max_new_tokens": 18, "do_sample": False}))
    for seed in range(5):
        watched.submit(Work(BEAMS, 2, seed))
    watched.go.set()
    assert watched.drain(60)
    assert watched.log == "Bsssss" * 3 + "Bsss" + "B"


def test_a_batch_that_keeps_texts_waiting_is_small(gpt: zoo.Model, watched: Watched) -> None:
    for work in (Work({"prompt": "A", "max_new_tokens": 8}), *(Work(BEAMS, 1, seed) for seed in range(7))):
        watched.submit(work)
    watched.go.set()
    assert watched.drain(60)
    assert watched.log == "BsssssBsssB"
    assert watched.drawn == [2, 2, 3]


def test_one_request_passes_many_to_another_adapter_where_one_has_room(gpt: zoo.Model, tmp_path: Path) -> None:
    gpt.add_adapter("made", zoo.LoRA(rank=1, targets=r".*\.0\..*"), seed=0)
    gpt.save_adapter(tmp_path / "made")
    gpt.remove_adapter("made")
    order: list[str | None] = []
    places = dict.fromkeys("ab", str(tmp_path / "made"))
    limits = Limits(batch=4, adapters=1)
    with Watched(gpt, places, limits) as runtime:
        for name in ["a"] * 60 + ["b", None]:
            ticket = runtime.submit(Work({"prompt": "A", "max_new_tokens": 2}, adapter=name))
            ticket.on_event(lambda _, name=name: order.append(name))  # type: ignore[misc]
        runtime.go.set()
        assert runtime.drain(60)
    assert len(order) == 62
    assert order.index(None) <= limits.batch
    # Besides those that may pass: batches that ran when it came, while it was read, and until there was a place for it.
    assert limits.batch <= order.index("b") <= PASSES + 4 * limits.batch
