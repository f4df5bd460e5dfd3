"""Adapters of a served model: read beside what runs, attached and evicted between two steps, one store for all."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from zoo.errors import AdapterError
from zoo.hub import saved_adapters
from zoo.serving import store as stores
from zoo.serving.embedder import Embedder
from zoo.serving.runtime import Runtime
from zoo.serving.store import READERS, AdapterStore
from zoo.serving.work import CancelledError, Limits, Piece, Work

SHORT = {"prompt": "The", "max_new_tokens": 2, "do_sample": False}
LONG = {"prompt": "The", "max_new_tokens": 200, "do_sample": False}


@pytest.fixture(scope="module")
def model() -> zoo.Model:
    return zoo.load("gpt", bits=4)


@pytest.fixture(scope="module")
def saved(model: zoo.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model.add_adapter("made", zoo.LoRA(rank=1), seed=0)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, parameter in model.trainable_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.1)
    folder = tmp_path_factory.mktemp("saved") / "made"
    model.save_adapter(folder)
    model.remove_adapter("made")
    return folder


class Disk:
    """Reads adapters as always, but for places that wait until they are told."""

    def __init__(self) -> None:
        self.read = saved_adapters.read
        self.reads: Counter[str] = Counter()
        self.told, self.begun = threading.Event(), threading.Event()
        self.now = self.most = 0

    def __call__(self, entry: Any, where: Any) -> Any:
        self.reads[Path(where).name] += 1
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            if Path(where).name.startswith("slow"):
                self.begun.set()
                assert self.told.wait(60)
            return self.read(entry, where)
        finally:
            self.now -= 1


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    made = Disk()
    monkeypatch.setattr(stores.saved_adapters, "read", made)
    yield made
    made.told.set()


def places(saved: Path, folder: Path, *names: str) -> dict[str, str]:
    for name in names:
        shutil.copytree(saved, folder / name)
    return {name: str(folder / name) for name in names}


def soon(holds: Callable[[], bool]) -> bool:
    for _ in range(400):
        if holds():
            return True
        time.sleep(0.02)
    return False


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("zoo-reading")]


def test_a_slow_disk_holds_up_those_who_wait_for_it_alone(
    model: zoo.Model, saved: Path, tmp_path: Path, disk: Disk
) -> None:
    with Runtime(model, places(saved, tmp_path, "slow", "quick"), Limits(batch=4)) as runtime:
        running = runtime.submit(Work(LONG, stream=True))
        events = running.events(60)
        assert isinstance(next(events), Piece)
        waiting = [runtime.submit(Work(SHORT, adapter="slow")) for _ in range(2)]
        assert disk.begun.wait(60)
        before = len(running._events)
        for _ in range(20):  # more than may pass one that finds no room
            assert runtime.submit(Work(SHORT, adapter="quick")).result(60).samples.data
        assert running.ended or len(running._events) > before, "its tokens go on"
        assert list(model.adapters) == ["quick"]
        assert runtime.facts()["queued"] == 2
        disk.told.set()
        assert {tuple(ticket.result(60).samples.data) for ticket in waiting} == {
            tuple(runtime.submit(Work(SHORT, adapter="quick")).result(60).samples.data)
        }
        running.cancel()
    assert disk.reads == {"slow": 1, "quick": 1}


def test_a_request_that_only_waits_for_a_disk_leaves_the_worker_asleep(
    model: zoo.Model, saved: Path, tmp_path: Path, disk: Disk
) -> None:
    with Runtime(model, places(saved, tmp_path, "slow")) as runtime:
        ticket = runtime.submit(Work(SHORT, adapter="slow"))
        assert disk.begun.wait(60)
        time.sleep(0.05)
        begun = time.process_time()
        time.sleep(0.3)
        assert time.process_time() - begun < 0.15
        assert runtime.submit(Work(SHORT)).result(60).samples.data
        disk.told.set()
        assert ticket.result(60).samples.data


def test_closing_while_an_adapter_is_read_is_clean(
    model: zoo.Model, saved: Path, tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "_PATIENCE", 0.2)
    runtime = Runtime(model, places(saved, tmp_path, "slow", "quick"))
    runtime.submit(Work(SHORT, adapter="quick")).result(60)
    ticket = runtime.submit(Work(SHORT, adapter="slow"))
    assert disk.begun.wait(60)
    begun = time.monotonic()
    runtime.close()
    assert time.monotonic() - begun < 5
    with pytest.raises(CancelledError):
        ticket.result(5)
    assert not model.adapters
    disk.told.set()
    assert soon(lambda: not readers())
    assert not model.adapters


def test_what_nobody_waits_for_any_more_is_not_attached(
    model: zoo.Model, saved: Path, tmp_path: Path, disk: Disk
) -> None:
    with Runtime(model, places(saved, tmp_path, "slow")) as runtime:
        ticket = runtime.submit(Work(SHORT, adapter="slow"))
        assert disk.begun.wait(60)
        ticket.cancel()
        disk.told.set()
        assert soon(lambda: not readers())
        assert runtime.submit(Work(SHORT)).result(60).samples.data
        assert not runtime.store._ready
        assert not model.adapters
        assert runtime.submit(Work(SHORT, adapter="slow")).result(60).samples.data
    assert disk.reads["slow"] == 2


def test_an_adapter_that_cannot_be_read_fails_its_requests_until_it_is_mended(
    model: zoo.Model, saved: Path, tmp_path: Path
) -> None:
    found = places(saved, tmp_path, "cut", "json", "base", "good")
    tensors = (tmp_path / "cut" / "adapter_model.safetensors").read_bytes()
    (tmp_path / "cut" / "adapter_model.safetensors").write_bytes(tensors[:-100])
    (tmp_path / "json" / "adapter_config.json").write_text("{")
    manifest = json.loads((tmp_path / "base" / "zoo.json").read_text())
    manifest["base"]["fingerprint"] = "0" * 64
    manifest["weights"] = {name: "0" * len(text) for name, text in manifest["weights"].items()}
    (tmp_path / "base" / "zoo.json").write_text(json.dumps(manifest))
    said = {"cut": "sha256", "json": "expected JSON", "base": "made for the base"}
    with Runtime(model, found, Limits(adapters=1)) as runtime:
        good = runtime.submit(Work(SHORT, adapter="good")).result(60).samples.data
        for name, words in said.items():
            with pytest.raises(AdapterError, match=words):
                runtime.submit(Work(SHORT, adapter=name)).result(60)
        assert list(model.adapters) == ["good"], "a damaged one takes no place"
        assert runtime.submit(Work(SHORT, adapter="good")).result(60).samples.data == good
        (tmp_path / "cut" / "adapter_model.safetensors").write_bytes(tensors)
        assert runtime.submit(Work(SHORT, adapter="cut")).result(60).samples.data == good
        assert runtime.facts()["evictions"] == 1


def test_samples_and_vectors_share_an_adapter(model: zoo.Model, saved: Path, tmp_path: Path, disk: Disk) -> None:
    with Runtime(model, places(saved, tmp_path, "a", "slow"), Limits(adapters=1)) as runtime:
        embedder = Embedder(model, runtime.store, runtime.limits)
        ticket = runtime.submit(Work(LONG, adapter="a", stream=True))
        assert isinstance(next(ticket.events(60)), Piece)
        under = embedder.submit(["a list"], "a").result(60)
        assert list(model.adapters) == ["a"]
        blocked = embedder.submit(["a list"], "slow")
        assert disk.begun.wait(60)
        assert not torch.equal(embedder.submit(["a list"], None).result(60), under), "others pass one that is read"
        disk.told.set()
        time.sleep(0.05)
        assert not blocked.done(), "a request that runs keeps its adapter"
        ticket.cancel()
        assert torch.equal(blocked.result(60), under)
        assert list(model.adapters) == ["slow"]
        embedder.close()
    assert disk.reads == {"a": 1, "slow": 1}
    assert not model.adapters


def test_only_some_are_read_at_once(model: zoo.Model, saved: Path, tmp_path: Path, disk: Disk) -> None:
    names = [f"slow{number}" for number in range(READERS + 3)]
    with Runtime(model, places(saved, tmp_path, *names), Limits(adapters=2)) as runtime:
        tickets = [runtime.submit(Work(SHORT, adapter=name)) for name in names]
        assert soon(lambda: disk.now == READERS)
        disk.told.set()
        for ticket in tickets:
            assert ticket.result(60).samples.data
            assert len(model.adapters) <= 2
    assert disk.most == READERS
    assert set(disk.reads.values()) == {1}


def test_leases_of_many_threads_are_never_too_many(model: zoo.Model, saved: Path, tmp_path: Path) -> None:
    found = places(saved, tmp_path, *"abcd")
    store = AdapterStore(model, found, 2)
    used: Counter[str] = Counter()
    lock = threading.Lock()

    def use(seed: int) -> int:
        draw, had = random.Random(seed), 0
        for _ in range(25):
            want = store.want(draw.choice("abcd"))
            assert want.name is not None
            for _ in range(draw.choice([3, 100_000])):  # some give up
                if store.lease(want):
                    break
                time.sleep(0.001)
            if want.had:
                had += 1
                with lock:
                    used[want.name] += 1
                    assert sum(map(bool, used.values())) <= 2
                assert want.name in model.adapters
                with lock:
                    used[want.name] -= 1
            store.end(want)
            store.end(want)
        return had

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(use, range(6))) > 30
    assert not any(store._users.values())
    assert not store._waiting
    store.close()
    assert not model.adapters
    assert not store._ready
    assert soon(lambda: not readers())


@pytest.mark.parametrize("count", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_many_adapters_one_after_the_other(model: zoo.Model, saved: Path, count: int) -> None:
    import psutil

    names = {f"n{number}": str(saved) for number in range(count)}
    sizes = []
    with Runtime(model, names, Limits(adapters=4)) as runtime:
        for name, number in zip(names, itertools.count(), strict=False):
            assert runtime.submit(Work(SHORT, adapter=name)).result(60).samples.data
            assert len(model.adapters) <= 4
            if number >= 20:
                sizes.append(psutil.Process().memory_info().rss)
        assert runtime.facts()["evictions"] == count - 4
    assert max(sizes) - sizes[0] < 32 * 2**20
