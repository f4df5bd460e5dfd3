"""What every request passes first: token, host, size; and what a client is told of limits and failures."""

from __future__ import annotations

import re
from typing import Any

import pytest

import zoo
from zoo.serving.runtime import Runtime
from zoo.serving.work import QueueFullError, TimeLimitError

from .fakes import refusing

TOKEN = "a-token-of-many-signs"
COMPLETION = {"prompt": "The list", "max_tokens": 2}


@pytest.fixture(scope="module")
def model() -> zoo.Model:
    return zoo.load("gpt", device="cpu")


@pytest.mark.parametrize(
    "header",
    [None, "", TOKEN, f"Basic {TOKEN}", "Bearer", "Bearer a-token-of-many-sign", f"Bearer {TOKEN}x", "Bearer \xff"],
)
def test_without_the_token_only_health_answers(served, model: zoo.Model, header: str | None) -> None:
    client = served(model, token=TOKEN, base_url="http://elsewhere.example")
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    assert client.get("/health", headers=headers).status_code == 200
    for path in ("/v1/models", "/metrics", "/openapi.json", "/nothing"):
        answer = client.get(path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert TOKEN not in answer.text
    assert client.post("/v1/completions", json=COMPLETION, headers=headers).status_code == 401


def test_with_the_token_all_answers(served, model: zoo.Model) -> None:
    client = served(model, token=TOKEN, base_url="http://elsewhere.example")
    headers = {"Authorization": f"bearer {TOKEN}"}
    assert client.get("/v1/models", headers=headers).status_code == 200
    assert client.post("/v1/completions", json=COMPLETION, headers=headers).status_code == 200


def test_without_a_token_no_page_of_strangers_can_ask_through_a_browser(served, model: zoo.Model) -> None:
    """A name of theirs may lead to this machine; and a form's post needs no consent, but is no JSON."""
    client = served(model)
    for host in ("stranger.example", "localhost.stranger.example", "127.0.0.1@stranger.example", "", "[::1"):
        assert client.get("/health", headers={"Host": host}).status_code == 403, host
    for host in ("localhost:8000", "127.0.0.1:1", "[::1]:8000"):
        assert client.get("/health", headers={"Host": host}).status_code == 200, host
    answer = client.post("/v1/completions", content='{"prompt": "x"}', headers={"Content-Type": "text/plain"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_body")
    assert "access-control-allow-origin" not in client.get("/health", headers={"Origin": "http://x.example"}).headers


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_refused(served, model: zoo.Model, chunked: bool) -> None:
    client = served(model, body=2000)
    text = b'{"prompt": "' + b"x" * 3000 + b'"}'
    content: Any = (text[at : at + 500] for at in range(0, len(text), 500)) if chunked else text
    answer = client.post("/v1/completions", content=content, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")


BROKEN = (
    "{",
    '{"prompt": NaN}',
    "[" * 200 + "]" * 200,
    '{"seed": ' + "9" * 5000 + "}",
    "[1]",
    '"x"',
    '{"a": "\\ud800"}',
)


@pytest.mark.parametrize("text", BROKEN)
def test_what_is_no_json_is_refused_in_openais_format(served, model: zoo.Model, text: str) -> None:
    client = served(model)
    for path in ("/v1/completions", "/v1/sample"):
        answer = client.post(path, content=text, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400, answer.text
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (QueueFullError("256 requests wait"), 429, "queue_full"),
        (TimeLimitError("longer than 1 s"), 504, "time_limit"),
        (zoo.ZooError("temperature: expected less"), 400, "invalid_value"),
        (zoo.PluginError("plugin failed in /secret/place"), 500, "internal_error"),
        (RuntimeError("/secret/place"), 500, "internal_error"),
    ],
)
def test_errors_have_their_status_and_tell_nothing_of_the_machine(
    served, model: zoo.Model, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, code: str
) -> None:
    client = served(model)
    for submit in (refusing(error, later=False), refusing(error, later=True)):
        monkeypatch.setattr(Runtime, "submit", submit)
        answer = client.post("/v1/completions", json=COMPLETION)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert "/secret" not in answer.text
        assert ("retry-after" in answer.headers) == (status == 429)


def test_paths_that_there_are_not(served, model: zoo.Model) -> None:
    client = served(model)
    assert client.get("/v1/nothing").json()["error"]["type"] == "not_found_error"
    assert client.get("/v1/completions").status_code == 405
    assert client.get("/docs").status_code == 404


def test_metrics_count_requests_by_route_and_status(served, model: zoo.Model) -> None:
    client = served(model)
    client.post("/v1/completions", json=COMPLETION)
    client.post("/v1/completions", json={"prompt": 1})
    client.get("/a/path/of/a/stranger")
    text = client.get("/metrics").text
    numbers = dict(re.findall(r"^(zoo_\S+) (\S+)$", text, re.MULTILINE))
    assert numbers['zoo_requests_total{route="/v1/completions",status="200"}'] == "1.0"
    assert numbers['zoo_requests_total{route="/v1/completions",status="400"}'] == "1.0"
    assert numbers['zoo_requests_total{route="other",status="404"}'] == "1.0"
    assert float(numbers['zoo_tokens_total{kind="completion"}']) > 0
    assert numbers["zoo_samples_total"] == "1.0"
    for name in ("zoo_queue_requests", "zoo_running_requests", "zoo_batch_samples", "zoo_adapters_loaded"):
        assert name in numbers
    assert "zoo_adapter_evictions_total" in numbers
    assert 'zoo_request_seconds_bucket{le="+Inf",route="/v1/completions"}' in numbers
    assert "stranger" not in text
