"""What goes wrong, tried on a `zoo serve` of its own: clients that leave, damaged adapters, wrong tokens."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from starlette import testclient

from .conftest import soon

httpx: Any = testclient.httpx  # whichever it has
TOKEN = "a-token-of-many-signs"
LONG = {"prompt": "The list", "max_tokens": 100, "temperature": 1, "top_k": 50, "n": 32, "stream": True}
DAMAGED = ("cut", "json", "base", "missing")


def damaged(adapter: Path, folder: Path) -> dict[str, str]:
    """Places of adapters that cannot be used: a truncated file, bad JSON, one of another base, none at all."""
    for name in ("cut", "json", "base"):
        shutil.copytree(adapter, folder / name)
    (folder / "cut" / "zoo.json").unlink()  # so that no digest says so first
    tensors = folder / "cut" / "adapter_model.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1000])
    (folder / "json" / "zoo.json").write_text('{"format": 3, "base": ')
    manifest = json.loads((folder / "base" / "zoo.json").read_text())
    manifest["base"]["fingerprint"] = "0" * 32
    manifest["weights"] = dict.fromkeys(manifest["weights"], "float32 1 0")
    (folder / "base" / "zoo.json").write_text(json.dumps(manifest))
    return {name: str(folder / name) for name in DAMAGED}


@pytest.fixture(scope="module")
def process(adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, str, Path]]:
    """A server's process, its address, and the file with what it says."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "token").write_text(TOKEN)
    (folder / "token").chmod(0o600)
    places = {"good": str(adapter), **damaged(adapter, folder)}
    named = ",".join(f"{name}={place}" for name, place in places.items())
    command = [sys.executable, "-m", "zoo", "serve", "gpt", "--port", "0", "--json", "--adapters", named]
    command += ["--token-file", str(folder / "token"), "--max-body", "4kB", "--grace", "1"]
    with (folder / "log").open("w") as log:
        made = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
    try:
        assert made.stdout is not None
        line = made.stdout.readline()
        assert line, (folder / "log").read_text()
        yield made, json.loads(line)["address"], folder / "log"
    finally:
        made.kill()
        made.communicate()


@pytest.fixture(scope="module")
def client(process: tuple[Any, str, Path]) -> Iterator[Any]:
    with httpx.Client(base_url=process[1], headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60) as made:
        yield made


def number(client: Any, name: str) -> float:
    found = re.search(rf"^{name} (\S+)$", client.get("/metrics").text, re.MULTILINE)
    assert found, name
    return float(found[1])


def answers(client: Any, model: str = "good") -> bool:
    asked = {"model": model, "prompt": "The list", "max_tokens": 2}
    return client.post("/v1/completions", json=asked).status_code == 200


def test_a_client_that_goes_away_in_its_stream_is_forgotten(client: Any) -> None:
    with client.stream("POST", "/v1/completions", json=LONG) as stream:
        assert next(stream.iter_lines()).startswith("data: ")
    begun = time.monotonic()
    assert soon(lambda: number(client, "zoo_running_requests") == 0)
    assert time.monotonic() - begun < 5
    assert number(client, "zoo_cancelled_requests_total") == 1
    assert answers(client)


def test_adapters_that_cannot_be_used_are_errors_of_their_requests_alone(
    client: Any, process: tuple[Any, str, Path]
) -> None:
    loaded = number(client, "zoo_adapters_loaded")
    for name in DAMAGED:
        for asked in ({"prompt": "a"}, {"prompt": "a", "stream": True}):
            answer = client.post("/v1/completions", json={"model": name, "max_tokens": 2, **asked})
            assert (answer.status_code, answer.json()["error"]["code"]) == (500, "adapter_unavailable"), answer.text
            assert str(process[2].parent) not in answer.text
        assert client.post("/v1/embeddings", json={"model": name, "input": "a"}).status_code == 500
    assert number(client, "zoo_adapters_loaded") == loaded
    log = process[2].read_text()
    for words in ("cut", "zoo.json", "made for the base", "expected a folder that exists"):
        assert words in log
    assert answers(client)


def raw(address: str, head: str, *parts: bytes) -> bytes:
    """The answer to a request that no client writes."""
    place = urlsplit(address)
    with socket.create_connection((place.hostname, place.port), timeout=30) as made:
        made.sendall(head.encode("latin-1"))
        found = b""
        try:
            for part in parts:
                made.sendall(part)
            while piece := made.recv(4096):
                found += piece
        except OSError:  # it has hung up, after its answer
            pass
        return found


@pytest.mark.parametrize("length", ["Content-Length: 9000", "Content-Length: 99999999999999999999", "chunked"])
def test_a_request_that_is_too_large_is_refused(process: tuple[Any, str, Path], length: str) -> None:
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
    head += "Content-Type: application/json\r\n"
    part = b'{"prompt": "' + b"x" * 3000
    if length == "chunked":
        chunks = [b"%x\r\n%s\r\n" % (len(part), part)] * 2  # more would be unread
        answer = raw(process[1], f"{head}Transfer-Encoding: chunked\r\n\r\n", *chunks)
    else:
        answer = raw(process[1], f"{head}{length}\r\n\r\n", part)
    assert b" 413 " in answer.partition(b"\r\n")[0], answer[:300]
    assert b"body_too_large" in answer


@pytest.mark.parametrize(
    "given", [None, "", "Bearer", "Bearer wrong-token-of-signs", f"Basic {TOKEN}", "Bearer \xff\xfe"]
)
def test_without_the_token_nothing_is_answered(process: tuple[Any, str, Path], given: str | None) -> None:
    said = "" if given is None else f"Authorization: {given}\r\n"
    answer = raw(process[1], f"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{said}\r\n")
    assert b" 401 " in answer.partition(b"\r\n")[0], answer[:300]
    assert b"invalid_api_key" in answer
    assert TOKEN not in process[2].read_text()


def test_sigterm_ends_streams_that_take_longer_than_the_grace(client: Any, process: tuple[Any, str, Path]) -> None:
    """The last test: the server ends."""
    made, _, log = process
    with ExitStack() as stack:
        streams = [stack.enter_context(client.stream("POST", "/v1/completions", json=LONG)) for _ in range(6)]
        lines = [stream.iter_lines() for stream in streams]
        assert all(next(one).startswith("data: ") for one in lines)
        made.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        last = [[line for line in one if line][-1] for one in lines]
        assert made.wait(30) == 0, log.read_text()
        assert time.monotonic() - begun < 20
    ends = {
        line if line.endswith("[DONE]") else json.loads(line.removeprefix("data: "))["error"]["code"] for line in last
    }
    assert ends - {"data: [DONE]"} == {"stopping"}, "each has all of its text, or says why not"
    assert "Traceback" not in log.read_text(), log.read_text()
