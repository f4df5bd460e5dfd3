"""`zoo serve --ray` with two replicas on this machine, asked as any server is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import psutil
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families

import zoo

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra ray"),
    pytest.mark.timeout(180),
]
TOKEN = "a-token-of-many-signs"
NAMES = ("first", "second", "third")
GREEDY = {"prompt": "The list", "max_tokens": 6, "temperature": 0}


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three adapters of gpt that change what it says, and one that is damaged."""
    found = {}
    model = zoo.load("gpt", bits=4, lora=4, device="cpu", seed=0)
    for seed, name in enumerate(NAMES):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter_name, parameter in model.module.named_parameters():
                if ".updates." in parameter_name:
                    parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        found[name] = tmp_path_factory.mktemp("adapters") / name
        model.save_adapter(found[name])
    damaged = tmp_path_factory.mktemp("adapters") / "damaged"
    damaged.mkdir()
    found["damaged"] = damaged
    return found


@pytest.fixture(scope="module")
def server(
    adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address of a server with two replicas, and its process."""
    named = ",".join(f"{name}={place}" for name, place in adapters.items())
    options = [
        "--bits",
        "4",
        "--device",
        "cpu",
        "--adapters",
        named,
        "--port",
        "0",
        "--ray",
        "--replicas",
        "2",
        "--json",
    ]
    log = tmp_path_factory.mktemp("log") / "stderr"
    command = [sys.executable, "-m", "zoo", "serve", "gpt", *options]
    environment = {**os.environ, "ZOO_TOKEN": TOKEN}
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment) as process,
    ):
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, log.read_text()
        told = json.loads(line)
        assert (told["model"], told["replicas"], told["adapters"]) == ("gpt", "2", list(adapters))
        yield told["address"], process
        process.kill()


def ask(address: str, path: str, body: dict[str, Any] | None = None, token: str = TOKEN) -> bytes:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    with urlopen(
        Request(address + path, None if body is None else json.dumps(body).encode(), headers), timeout=60
    ) as got:
        return bytes(got.read())


def text_of(address: str, **body: Any) -> str:
    return str(json.loads(ask(address, "/v1/completions", GREEDY | body))["choices"][0]["text"])


def numbers(address: str, name: str) -> dict[str, float]:
    """Return a metric of each replica."""
    families = text_string_to_metric_families(ask(address, "/metrics").decode())
    samples = [one for family in families for one in family.samples if one.name == name]
    return {one.labels["replica"]: one.value for one in samples if "replica" in one.labels}


def soon(holds: Callable[[], bool], seconds: float = 30) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if holds():
            return True
        time.sleep(0.1)
    return False


def refused(address: str, path: str, body: dict[str, Any] | None = None, token: str = TOKEN) -> tuple[int, str]:
    with pytest.raises(HTTPError) as caught:
        ask(address, path, body, token)
    return caught.value.code, str(json.loads(caught.value.read())["error"]["message"])


def test_answers_are_those_of_the_model_and_an_adapter_has_one_place(
    server: tuple[str, Any], adapters: dict[str, Path]
) -> None:
    address = server[0]
    said = {name: text_of(address, model=name) for name in ("gpt", *NAMES)}
    for _ in range(6):
        assert {name: text_of(address, model=name) for name in ("gpt", *NAMES)} == said
    loaded = numbers(address, "zoo_adapters_loaded")
    assert sum(loaded.values()) == len(NAMES), loaded
    assert min(loaded.values()) >= 1, "adapters are spread over the replicas"

    model = zoo.load("gpt", bits=4, device="cpu")
    wanted = {}
    for name in ("gpt", *NAMES):
        if name != "gpt":
            model.add_adapter(name, adapters[name], active=False)
        model.activate(*([] if name == "gpt" else [name]))
        sample = model.sample(1, prompt=GREEDY["prompt"], max_new_tokens=6, do_sample=False)
        wanted[name] = str(sample.data[0])[len("The list") :]
    assert said == wanted
    assert len(set(said.values())) > 2, "they are told apart"


def test_both_replicas_work(server: tuple[str, Any]) -> None:
    address = server[0]
    before = numbers(address, "zoo_samples_total")
    assert len(before) == 2
    with ThreadPoolExecutor(16) as pool:
        texts = list(pool.map(lambda _: text_of(address, max_tokens=20), range(48)))
    assert len(set(texts)) == 1
    after = numbers(address, "zoo_samples_total")
    gained = {replica: after[replica] - before[replica] for replica in before}
    assert sum(gained.values()) == 48
    assert min(gained.values()) > 0, gained
    health = json.loads(ask(address, "/health"))
    assert health == {"status": "ok", "model": "gpt", "replicas": 2}


def test_a_stream_comes_in_pieces(server: tuple[str, Any]) -> None:
    address = server[0]
    lines = ask(address, "/v1/completions", GREEDY | {"model": "first", "stream": True}).decode().splitlines()
    events = [line.removeprefix("data: ") for line in lines if line]
    assert events.pop() == "[DONE]"
    assert len(events) >= 6
    assert "".join(json.loads(event)["choices"][0]["text"] for event in events) == text_of(address, model="first")


def test_a_client_that_goes_away_frees_its_place(server: tuple[str, Any]) -> None:
    address = server[0]
    before = sum(numbers(address, "zoo_cancelled_requests_total").values())
    body = {"prompt": "The list", "max_tokens": 90, "n": 32, "temperature": 1, "stream": True}
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    with urlopen(Request(f"{address}/v1/completions", json.dumps(body).encode(), headers), timeout=60) as got:
        assert got.readline()
    assert soon(lambda: sum(numbers(address, "zoo_cancelled_requests_total").values()) == before + 1)
    assert soon(lambda: sum(numbers(address, "zoo_running_requests").values()) == 0)


def test_what_is_refused(server: tuple[str, Any]) -> None:
    address = server[0]
    assert refused(address, "/v1/models", token="a-token-that-is-wrong")[0] == 401
    assert refused(address, "/metrics", token="")[0] == 401
    assert refused(address, "/nothing")[0] == 404
    code, said = refused(address, "/v1/completions", GREEDY | {"model": "firts"})
    assert code == 404
    assert "first" in said
    assert refused(address, "/v1/completions", GREEDY | {"logprobs": 3})[0] == 400
    assert refused(address, "/v1/completions", GREEDY | {"model": "damaged"}) == (
        500,
        "adapter 'damaged' cannot be used: the server's log says why",
    )
    assert _too_large(address) == 413
    assert text_of(address, model="first")


def test_a_replica_that_was_killed_comes_back(server: tuple[str, subprocess.Popen[str]]) -> None:
    address, process = server
    before = set(numbers(address, "zoo_samples_total"))
    one = next(child for child in _children(process) if child.cmdline()[0].startswith("ray::ServeReplica"))
    one.kill()
    for _ in range(8):
        assert text_of(address) == text_of(address), "requests go to the one that is left"
    assert soon(lambda: len(numbers(address, "zoo_samples_total")) == 2, 60)
    assert len(before - set(numbers(address, "zoo_samples_total"))) == 1


def test_it_ends_when_told_to_and_finishes_what_runs(server: tuple[str, subprocess.Popen[str]]) -> None:
    address, process = server
    children = _children(process)
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(text_of, address, max_tokens=90) for _ in range(8)]
        assert soon(lambda: sum(numbers(address, "zoo_running_requests").values()) > 0)
        process.send_signal(signal.SIGTERM)
        texts = [answer.result() for answer in answers]
    assert len(set(texts)) == 1
    assert process.wait(60) == 0
    assert not psutil.wait_procs(children, timeout=20)[1], "Ray that was started here has ended"


def _too_large(address: str) -> int:
    """Return the answer to a request that says how large it is, and is not sent."""
    connection = HTTPConnection(urlsplit(address).netloc, timeout=30)
    connection.putrequest("POST", "/v1/completions")
    for name, value in (("Authorization", f"Bearer {TOKEN}"), ("Content-Length", str(17 * 2**20))):
        connection.putheader(name, value)
    connection.endheaders()
    status = connection.getresponse().status
    connection.close()
    return status


def _children(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return [child for child in psutil.Process(process.pid).children(recursive=True) if child.cmdline()]
