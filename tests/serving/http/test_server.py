"""A server that listens, asked by OpenAI's client and by ruder ones; and the command `zoo serve`."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import openai
import pytest

import zoo
from zoo.cli import main
from zoo.serving.http.server import address_of, given_token, listen
from zoo.serving.runtime import Runtime

from .conftest import listening, soon, stalled

TOKEN = "a-token-of-many-signs"
LONG = {"prompt": "The list", "max_tokens": 90, "temperature": 1}


def client_of(address: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0, timeout=60)


@pytest.fixture
def server(adapter: Path) -> Iterator[tuple[str, Runtime]]:
    """The address of a server in a thread of this process, and its runtime."""
    with listening(zoo.load("gpt", device="cpu"), {"other": str(adapter)}, batch=8) as made:
        yield made


def test_an_answer_in_two_writes_does_not_wait_for_an_acknowledgement() -> None:
    with (
        listen("127.0.0.1", 0, None) as opened,
        socket.create_connection(opened.getsockname()),
        opened.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert accepted.proto == socket.IPPROTO_TCP  # what asyncio goes by


def test_openais_client_as_it_is(server: tuple[str, Runtime]) -> None:
    client, names = client_of(server[0]), ("gpt", "other")
    assert [model.id for model in client.models.list()] == list(names)
    settings: Any = {"temperature": 0, "max_tokens": 8, "seed": 1}
    whole = {name: client.completions.create(model=name, prompt="The list", **settings) for name in names}
    assert whole["other"].choices[0].text != whole["gpt"].choices[0].text
    assert whole["gpt"].usage is not None
    assert whole["gpt"].usage.completion_tokens == 8
    pieces = client.completions.create(model="other", prompt="The list", stream=True, **settings)
    texts = [piece.choices[0].text for piece in pieces]
    assert len(texts) > 4, "a token at a time"
    assert "".join(texts) == whole["other"].choices[0].text

    asked: Any = {"messages": [{"role": "user", "content": "Hi"}], "model": "gpt", **settings}
    answer = client.chat.completions.create(**asked)
    stream = client.chat.completions.create(**asked, stream=True)
    said = "".join(piece.choices[0].delta.content or "" for piece in stream if piece.choices)
    assert said.strip() == answer.choices[0].message.content
    vectors = client.embeddings.create(model="other", input=["a list", "a tuple"])
    assert len(vectors.data) == 2
    assert sum(value**2 for value in vectors.data[0].embedding) == pytest.approx(1, abs=1e-4)
    with pytest.raises(openai.NotFoundError, match="no model or adapter 'none'"):
        client.completions.create(model="none", prompt="x")
    with pytest.raises(openai.BadRequestError, match="would be ignored"):
        client.completions.create(model="gpt", prompt="x", logprobs=2)


def test_a_client_that_goes_away_cancels_its_request(server: tuple[str, Runtime]) -> None:
    """One in the middle of its stream, and one that waits for a whole answer."""
    address, runtime = server

    def cancelled(count: int) -> bool:
        facts = runtime.facts()
        return (facts["cancelled"], facts["running"], facts["queued"]) == (count, 0, 0)

    cut = client_of(address).completions.create(model="gpt", n=8, stream=True, **LONG)
    next(iter(cut))
    cut.response.close()
    assert soon(lambda: cancelled(1))
    place = urlsplit(address)
    body = json.dumps({**LONG, "n": 8}).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with stalled(runtime):
        with socket.create_connection((place.hostname, place.port)) as raw:
            raw.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            assert soon(lambda: runtime.facts()["running"] == 1)
        assert soon(lambda: runtime.facts()["cancelled"] == 2)
    assert soon(lambda: cancelled(2))


def test_sigterm_under_load_finishes_what_runs(adapter: Path) -> None:
    command = [sys.executable, "-m", "zoo", "serve", "gpt", "--adapters", f"other={adapter}", "--port", "0", "--json"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        ready = json.loads(line)
        assert (ready["model"], ready["adapters"]) == ("gpt", ["other"])
        client, started = client_of(ready["address"]), threading.Semaphore(0)

        def ask(number: int) -> str | None:
            reason = None
            for piece in client.completions.create(model=("gpt", "other")[number % 2], stream=True, **LONG):
                reason = piece.choices[0].finish_reason
                started.release()
            return reason

        with ThreadPoolExecutor(4) as pool:
            answers = [pool.submit(ask, number) for number in range(4)]
            assert started.acquire(timeout=60)
            process.send_signal(signal.SIGTERM)
            assert soon(lambda: _refused(ready["address"]))
            assert {one.result(timeout=60) for one in answers} <= {"length", "stop"}
        said = process.communicate(timeout=60)[1]
        assert (process.returncode, "Traceback" in said) == (0, False), said
    finally:
        process.kill()
        process.communicate()


def _refused(address: str) -> bool:
    try:
        urlopen(f"{address}/health", timeout=5).close()
    except OSError:
        return True
    return False


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--host", "0.0.0.0"], "needs a token"),
        (["--host", "no.such.host.invalid"], "cannot listen"),
        (["--token-file", "short"], "at least 16"),
        (["--token-file", "open"], "chmod 600"),
        (["--token-file", "none"], "expected a file with a token"),
        (["--adapters", "a=b,a=c"], "given twice"),
        (["--adapters", "a"], "not of the form NAME=WHERE"),
        (["--max-body", "7"], "no size"),
    ],
)
def test_what_it_does_not_start_with(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ZOO_TOKEN", raising=False)
    for name, text, mode in (("short", "few", 0o600), ("open", TOKEN, 0o644)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(mode)
    assert main(["serve", "gpt", "--port", "0", *words]) in (1, 2)
    assert said in capsys.readouterr().err


def test_without_the_extra_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", "gpt"]) == 1
    assert "pip install 'adapter-zoo[serve]'" in capsys.readouterr().err


def test_a_token_listens_elsewhere(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o600)
    token = given_token(file)
    with listen("0.0.0.0", 0, token) as listening:
        assert address_of(listening).startswith("http://0.0.0.0:")
    assert token == TOKEN
