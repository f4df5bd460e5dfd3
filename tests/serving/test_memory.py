"""What a served model has done leaves nothing in memory: no request, no tensor, and freed memory goes back."""

from __future__ import annotations

import gc
import random
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

import zoo
from zoo.serving import memory
from zoo.serving.memory import FreeMemory
from zoo.serving.runtime import Runtime
from zoo.serving.work import Limits, Work


def tensors() -> int:
    gc.collect()
    return sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())


def test_nothing_of_a_request_stays_alive() -> None:
    model = zoo.load("gpt", bits=4)
    for number, name in enumerate("ab"):
        model.add_adapter(name, zoo.LoRA(rank=1), seed=number, active=False)
    draw = random.Random(0)
    works = [
        Work(
            {
                "prompt": "the " * draw.randint(1, 9),
                "max_new_tokens": draw.randint(1, 6),
                "num_beams": 1 + (i % 9 == 0),
            },
            seed=i,
            adapter=draw.choice(["a", "b", None]),
            stream=bool(i % 2),
            stop=("e",) if i % 3 else (),
        )
        for i in range(30)
    ]
    alive: list[weakref.ref[Any]] = []

    def ask(work: Work) -> None:
        ticket = runtime.submit(work)
        if work.seed == 7:
            ticket.cancel()
        else:
            ticket.result(60)
        alive.extend((weakref.ref(ticket), *([weakref.ref(ticket.last)] if ticket.last is not None else [])))

    with Runtime(model, limits=Limits(batch=4)) as runtime, ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, works[:10]))  # whatever is made once
        assert runtime.drain(30)
    alive.clear()
    before = tensors()
    with Runtime(model, limits=Limits(batch=4)) as runtime, ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, works))
        assert runtime.drain(30)
    assert tensors() <= before
    assert len(alive) > 30
    assert not [one() for one in alive if one() is not None]


def test_freed_memory_goes_back_under_load_and_once_it_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    times: list[int] = []
    monkeypatch.setattr(memory, "_trim", lambda: times.append)
    free = FreeMemory(every=1000)
    free.worked()
    assert (times, free.due) == ([], True)
    free.give_back()
    assert (times, free.due) == ([0], False)
    often = FreeMemory(every=0)
    often.worked()
    assert (times, often.due) == ([0, 0], False)


def test_a_runtime_that_is_quiet_gives_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    given = []
    monkeypatch.setattr("zoo.serving.runtime.EVERY", 0.05)
    monkeypatch.setattr(memory, "_trim", lambda: given.append)
    with Runtime(zoo.load("gpt")) as runtime:
        runtime.submit(Work({"prompt": "a", "max_new_tokens": 1})).result(60)
        for _ in range(100):
            if given:
                break
            time.sleep(0.05)
    assert given == [0]
