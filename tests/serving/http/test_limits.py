"""Limits of a server that listens, with a model that works: 429 with a full queue, 504 for what takes too long."""

from __future__ import annotations

import json
import re
from http.client import HTTPResponse
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

import zoo
from zoo.serving.runtime import Runtime
from zoo.serving.work import Work

from .conftest import listening, soon, stalled

LONG = {"prompt": "The list", "max_tokens": 90, "temperature": 0}
SHORT = {"prompt": "The list", "max_tokens": 2, "temperature": 0}


@pytest.fixture(scope="module")
def model() -> zoo.Model:
    return zoo.load("gpt", device="cpu")


def opened(address: str, body: dict[str, Any]) -> HTTPResponse:
    content = json.dumps(body).encode()
    asked = Request(f"{address}/v1/completions", content, {"Content-Type": "application/json"})
    answer = urlopen(asked, timeout=60)
    assert isinstance(answer, HTTPResponse)
    return answer


def refused(address: str, body: dict[str, Any]) -> tuple[int, str, Any]:
    """The status of an answer that is an error, its code, and Retry-After."""
    with pytest.raises(HTTPError) as found, opened(address, body):
        pass
    error = json.loads(found.value.read())["error"]
    return found.value.code, error["code"], found.value.headers["retry-after"]


def is_idle(runtime: Runtime) -> bool:
    facts = runtime.facts()
    return (facts["running"], facts["queued"]) == (0, 0)


def counted(address: str, status: int) -> float:
    with urlopen(f"{address}/metrics", timeout=60) as answer:
        text = answer.read().decode()
    found = re.search(rf'^zoo_requests_total{{route="/v1/completions",status="{status}"}} (\S+)', text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_a_full_queue_answers_429_until_there_is_room(model: zoo.Model) -> None:
    with listening(model, batch=1, queue=1) as (address, runtime):
        running = opened(address, {**LONG, "stream": True})
        assert running.readline().startswith(b"data: ")
        with stalled(runtime):
            waiting = runtime.submit(Work({"prompt": "A", "max_new_tokens": 2}))
            for stream in (False, True):
                assert refused(address, {**SHORT, "stream": stream}) == (429, "queue_full", "1")
        assert b"[DONE]" in running.read()
        assert waiting.result(60).samples.data
        with opened(address, SHORT) as answer:
            assert answer.status == 200
        assert counted(address, 429) == 2
        assert soon(lambda: is_idle(runtime))


def test_a_request_that_takes_too_long_answers_504_and_is_freed(model: zoo.Model) -> None:
    with listening(model, seconds=0.4) as (address, runtime):
        with stalled(runtime):
            for stream in (False, True):
                assert refused(address, {**LONG, "stream": stream}) == (504, "time_limit", None)
        assert soon(lambda: is_idle(runtime))
        with opened(address, SHORT) as answer:
            assert answer.status == 200
        assert counted(address, 504) == runtime.facts()["failed"] == 2


def test_a_stream_that_takes_too_long_says_so_in_the_stream(model: zoo.Model) -> None:
    with listening(model, seconds=0.4) as (address, runtime):
        stream = opened(address, {**LONG, "stream": True})
        first = stream.readline()
        with stalled(runtime):
            lines = [first, *stream.read().splitlines()]
        said = [json.loads(line.removeprefix(b"data: ")) for line in lines if line.strip()]
        assert [one["error"]["code"] for one in said if "error" in one] == ["time_limit"]
        assert "error" in said[-1], "and nothing after it"
        assert said[0]["choices"]
        assert soon(lambda: is_idle(runtime))
