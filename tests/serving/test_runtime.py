"""A served model: every request gets what the model gives it alone, whatever others are there and however they end."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from zoo.errors import AdapterError, UnknownNameError, ZooError
from zoo.serving.runtime import Runtime
from zoo.serving.work import CancelledError, Limits, Piece, QueueFullError, StoppedError, TimeLimitError, Work

LONG = {"prompt": "The", "max_new_tokens": 200, "do_sample": False}


@pytest.fixture(scope="module")
def gpt() -> zoo.Model:
    model = zoo.load("gpt", bits=4)
    for number, name in enumerate("ab"):
        model.add_adapter(name, zoo.LoRA(rank=2), seed=number, active=False)
        fill(model, name, number)
    return model


@pytest.fixture
def running(gpt: zoo.Model) -> Iterator[Runtime]:
    with Runtime(gpt) as runtime:
        yield runtime


def fill(model: zoo.Model, name: str, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    for path, parameter in model.module.named_parameters():
        if f".updates.{name}." in path:
            parameter.data.copy_(torch.randn(parameter.shape, generator=draw) * 0.1)


def alone(model: zoo.Model, work: Work) -> Any:
    model.activate(*[] if work.adapter is None else [work.adapter])
    samples = model.sample(work.n, seed=work.seed, **work.options)
    model.deactivate()
    return samples.data


def test_texts_are_those_of_each_request_alone(gpt: zoo.Model) -> None:
    works = [
        Work({"prompt": "The list of", "max_new_tokens": 9}, 3, 1, "a"),
        Work({"prompt": "A", "max_new_tokens": 5, "do_sample": False}, 1, 2, "b", stream=True),
        Work({"messages": "Hello", "max_new_tokens": 6, "top_k": 9, "repetition_penalty": 1.5}, 1, 3, None),
        Work({"prompts": ["This is", "a"], "max_new_tokens": 4, "no_repeat_ngram_size": 2}, 2, 4, "a", stream=True),
        Work({"prompt": "The", "max_new_tokens": 4, "num_beams": 2, "do_sample": False}, 1, 5, "b"),
    ]
    wanted = [alone(gpt, work) for work in works]
    with Runtime(gpt) as runtime:
        tickets = [runtime.submit(work) for work in works]
        for ticket, texts in zip(tickets, wanted, strict=True):
            *pieces, done = ticket.events(60)
            assert done.samples.data == texts
            assert bool(pieces) == ticket.work.stream
            for index, text in enumerate(done.texts if pieces else ()):
                assert "".join(one.text for one in pieces if one.index == index) == text
                assert texts[index].endswith(text)
        first = tickets[0].result()
        assert first.usage["completion_tokens"] == 27
        assert first.reasons == ("length",) * 3
        facts = runtime.facts()
    assert (facts["finished"], facts["failed"], facts["samples"]) == (5, 0, 10)
    assert facts["batch"] > 1


def test_a_text_stops_before_a_stop_text_that_is_never_shown(gpt: zoo.Model) -> None:
    options = {"prompt": "The list, the", "max_new_tokens": 30, "do_sample": False}
    whole = alone(gpt, Work(options))[0][len("The list, the") :]
    stop = whole[8:11]
    with Runtime(gpt) as runtime:
        *pieces, done = runtime.submit(Work(options, stop=(stop, "the"), stream=True)).events(60)
    cut = min(at for at in (whole.find(stop), whole.find("the")) if at >= 0)
    assert "".join(piece.text for piece in pieces) == done.texts[0] == whole[:cut]
    assert done.samples.data == ["The list, the" + whole[:cut]]
    assert done.reasons == ("stop",)


def test_requests_that_are_alike_are_drawn_in_one_batch() -> None:
    model = zoo.load("stylegan")
    works = [Work({"labels": [number]}, seed=number) for number in range(4)]
    wanted = [alone(model, work) for work in works]
    with Runtime(model) as runtime:
        with model.adapter_set.turns.changing():  # so that all of them wait
            tickets = [runtime.submit(work) for work in (Work({}, 2, 9), *works)]
            time.sleep(0.1)
        found = [ticket.result(60).samples.data for ticket in tickets]
        facts = runtime.facts()
    assert len(found[0]) == 2
    assert all(torch.allclose(one, other, atol=1e-4) for one, other in zip(found[1:], wanted, strict=True))
    assert facts["batches"] == 2


def test_what_cannot_be_is_refused_before_it_waits(running: Runtime) -> None:
    for work, error in (
        (Work({"promt": "a"}), UnknownNameError),
        (Work({"top_p": 2.0}), ZooError),
        (Work({"prompt": ""}), ZooError),
        (Work(adapter="c"), UnknownNameError),
        (Work(n=1000), ZooError),
    ):
        with pytest.raises(error):
            running.submit(work)
    assert running.facts()["failed"] == 0


class Slow(Runtime):
    """A runtime that is slower than its time limits on any machine."""

    def _step(self) -> None:
        time.sleep(0.05)
        super()._step()


def test_cancelled_requests_and_those_that_take_too_long_are_gone(gpt: zoo.Model) -> None:
    with Slow(gpt, limits=Limits(seconds=0.8, queue=1, batch=1)) as runtime:
        first = runtime.submit(Work(LONG, stream=True))
        assert isinstance(next(first.events(60)), Piece)
        late = runtime.submit(Work(LONG))
        with pytest.raises(QueueFullError):
            runtime.submit(Work(LONG))
        first.cancel()
        with pytest.raises(CancelledError):
            first.result(5)
        with pytest.raises(TimeLimitError, match=r"longer than 0\.8 s"):
            late.result(5)
        assert runtime.drain(5)
        assert runtime.facts()["cancelled"] == runtime.facts()["failed"] == 1
        with pytest.raises(StoppedError):
            runtime.submit(Work(LONG))


def test_draining_finishes_what_was_taken_and_closing_cancels_it(gpt: zoo.Model) -> None:
    with Runtime(gpt) as runtime:
        short = runtime.submit(Work({"prompt": "A", "max_new_tokens": 20}))
        assert runtime.drain(60)
        assert short.ended
    runtime = Runtime(gpt)
    told: list[Any] = []
    ticket = runtime.submit(Work(LONG))
    ticket.on_event(told.append)
    runtime.close()
    assert isinstance(told[0], CancelledError)
    assert not any("zoo-serving" in thread.name for thread in threading.enumerate())


def test_a_listener_that_fails_cancels_its_request(running: Runtime, caplog: pytest.LogCaptureFixture) -> None:
    def gone(event: Any) -> None:
        raise RuntimeError("the client is away")

    ticket = running.submit(Work(LONG, stream=True))
    ticket.on_event(gone)
    with pytest.raises(CancelledError):
        ticket.result(30)
    assert running.drain(10)


def test_adapters_come_and_go_and_leave_nothing(tmp_path: Path) -> None:
    model = zoo.load("gpt", bits=4)
    model.add_adapter("made", zoo.LoRA(rank=1, targets=r".*\.0\..*"), seed=0)
    fill(model, "made", 0)
    model.save_adapter(tmp_path / "made")
    model.remove_adapter("made")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "adapter_config.json").write_text("{")
    places = {f"a{number}": str(tmp_path / "made") for number in range(12)}
    places |= {"broken": str(tmp_path / "broken"), "missing": str(tmp_path / "nowhere")}
    options = {"prompt": "The", "max_new_tokens": 2, "do_sample": False}
    seen = []
    with Runtime(model, places, Limits(adapters=2)) as runtime:
        for name in places:
            ticket = runtime.submit(Work(options, adapter=name))
            if not name.startswith("a"):
                with pytest.raises(AdapterError, match=f"adapter '{name}' cannot be loaded"):
                    ticket.result(60)
                continue
            ticket.result(60)
            assert len(model.adapters) <= 2
            seen += [weakref.ref(one) for path, one in model.module.named_parameters() if f".updates.{name}." in path]
        assert runtime.facts()["evictions"] >= 10
        assert runtime.submit(Work(options)).result(60).samples.data == alone_of(model, options)
    assert not model.adapters
    gc.collect()
    assert sum(one() is not None for one in seen) == 0


def alone_of(model: zoo.Model, options: dict[str, Any]) -> Any:
    return zoo.load("gpt", bits=4).sample(1, **options).data
