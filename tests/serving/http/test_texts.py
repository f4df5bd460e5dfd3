"""Completions and chats of gpt: what OpenAI's arguments do, and that none is ignored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

import zoo

PROMPT = "The list"
GREEDY = {"temperature": 0, "max_tokens": 6}


@pytest.fixture(scope="module")
def model() -> zoo.Model:
    return zoo.load("gpt", device="cpu")


@pytest.fixture(scope="module")
def client(served, adapter: Path, model: zoo.Model) -> TestClient:
    damaged = adapter.parent / "damaged"
    damaged.mkdir()
    (damaged / "adapter_config.json").write_text("{")
    return served(model, {"other": str(adapter), "damaged": str(damaged)}, samples=4)


def complete(client: TestClient, **body: Any) -> Any:
    answer = client.post("/v1/completions", json={"prompt": PROMPT, **GREEDY, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def chunks(text: str) -> list[Any]:
    *lines, last = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert last == "[DONE]"
    return [json.loads(line) for line in lines]


def test_a_completion_is_what_the_model_samples_without_the_prompt(client: TestClient, adapter: Path) -> None:
    alone = zoo.load("gpt", lora=str(adapter), device="cpu")
    for name, own in (("gpt", zoo.load("gpt", device="cpu")), ("other", alone)):
        (choice,) = complete(client, model=name)["choices"]
        (text,) = own.sample(prompt=PROMPT, do_sample=False, max_new_tokens=6)
        assert PROMPT + choice["text"] == text
        assert PROMPT + choice["text"] == complete(client, model=name, echo=True)["choices"][0]["text"]
    assert complete(client)["model"] == "gpt"


def test_several_prompts_and_choices_come_in_order_and_seeds_repeat(client: TestClient) -> None:
    asked = {"prompt": [PROMPT, "A tuple"], "n": 2, "seed": 3, "temperature": 1, "top_k": 50}
    first, again = (complete(client, **asked)["choices"] for _ in range(2))
    assert [choice["index"] for choice in first] == [0, 1, 2, 3]
    assert [choice["text"] for choice in first] == [choice["text"] for choice in again]
    assert len({choice["text"] for choice in first}) == 4


def test_a_stream_says_the_same_in_pieces(client: TestClient) -> None:
    body = {"prompt": PROMPT, **GREEDY, "stream": True, "stream_options": {"include_usage": True}}
    answer = client.post("/v1/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    pieces = chunks(answer.text)
    text = "".join(choice["text"] for piece in pieces for choice in piece["choices"])
    assert text == complete(client)["choices"][0]["text"]
    reasons = [choice["finish_reason"] for piece in pieces for choice in piece["choices"]]
    assert reasons[-1] is not None
    assert set(reasons[:-1]) == {None}


def test_a_stop_text_ends_the_text_and_is_not_in_it(client: TestClient) -> None:
    whole = complete(client)["choices"][0]["text"]
    stop = whole[3:6]
    (choice,) = complete(client, stop=[stop])["choices"]
    assert (choice["text"], choice["finish_reason"]) == (whole[: whole.index(stop)], "stop")


def test_why_a_text_ended_is_true_or_null(client: TestClient) -> None:
    """A beam search gives whole texts, which do not say whether they were cut."""
    for more, reason in ({}, "length"), ({"num_beams": 2}, None), ({"num_beams": 2, "stop": ["zzz"]}, None):
        whole = complete(client, **more)["choices"][0]
        assert whole["finish_reason"] == reason
        answer = client.post("/v1/completions", json={"prompt": PROMPT, **GREEDY, **more, "stream": True})
        assert [one["finish_reason"] for piece in chunks(answer.text) for one in piece["choices"]][-1] == reason
    text = complete(client, num_beams=2)["choices"][0]["text"]
    (choice,) = complete(client, num_beams=2, stop=[text[3:6]])["choices"]
    assert (choice["text"], choice["finish_reason"]) == (text[: text.index(text[3:6])], "stop")


def test_a_chat_answers_and_streams_with_a_role(client: TestClient) -> None:
    body = {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}], "temperature": 0}
    asked = {**body, "max_completion_tokens": 6, "user": "me", "presence_penalty": 0, "tools": None}
    answer = client.post("/v1/chat/completions", json=asked).json()
    message = answer["choices"][0]["message"]
    assert (answer["object"], message["role"]) == ("chat.completion", "assistant")
    pieces = chunks(client.post("/v1/chat/completions", json={**asked, "stream": True}).text)
    assert pieces[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    deltas = [choice["delta"].get("content", "") for piece in pieces for choice in piece["choices"]]
    assert "".join(deltas).strip() == message["content"]


@pytest.mark.parametrize(
    ("body", "status", "param", "said"),
    [
        ({"logprobs": 3}, 400, "logprobs", "would be ignored"),
        ({"frequency_penalty": 0.5}, 400, "frequency_penalty", "would be ignored"),
        ({"temprature": 1}, 400, "temprature", "Did you mean 'temperature'"),
        ({"temperature": "hot"}, 400, "temperature", "valid number"),
        ({"temperature": 3}, 400, "temperature", "less than or equal to 2"),
        ({"top_k": -1}, 400, "top_k", "from 0"),
        ({"prompts": ["x"]}, 400, "prompts", "another argument"),
        ({"prompt": [1, 2]}, 400, "prompt", "string"),
        ({"n": 5}, 400, "n", "at most 4"),
        ({"n": 2, "prompt": ["a", "b", "c"]}, 400, "n", "at most 4"),
        ({"stop": [""]}, 400, "stop", "none empty"),
        ({"stream_options": {"include_usage": True}}, 400, "stream_options", "only with stream"),
        ({"model": "othr"}, 404, "model", "Did you mean 'other'"),
        ({"model": "damaged"}, 500, "model", "the server's log says why"),
    ],
)
def test_what_cannot_be_is_refused_by_name(client: TestClient, body: Any, status: int, param: str, said: str) -> None:
    for stream in (False, True):
        if stream and "stream_options" in body:
            continue
        answer = client.post("/v1/completions", json={"prompt": PROMPT, "max_tokens": 2, "stream": stream, **body})
        error = answer.json()["error"]
        assert (answer.status_code, error["param"].split(".")[0]) == (status, param), answer.text
        assert said in error["message"]
        assert "Traceback" not in answer.text
        assert "/tmp" not in answer.text


def test_a_damaged_adapter_leaves_the_others_alone(client: TestClient) -> None:
    before = complete(client, model="other")["choices"]
    for _ in range(2):
        assert client.post("/v1/completions", json={"prompt": PROMPT, "model": "damaged"}).status_code == 500
    assert complete(client, model="other")["choices"] == before


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "messages"),
        ({"messages": [{"role": "user", "content": "x"}], "max_tokens": 2, "max_completion_tokens": 3}, "max_tokens"),
        ({"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "function"}]}, "tools"),
    ],
)
def test_a_chat_that_cannot_be_is_refused(client: TestClient, body: Any, param: str) -> None:
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"].split(".")[0] == param


def test_the_models_are_the_base_and_the_adapters(client: TestClient) -> None:
    models = client.get("/v1/models").json()["data"]
    assert [model["id"] for model in models] == ["gpt", "other", "damaged"]
    assert "/v1/chat/completions" in models[0]["endpoints"]
    assert client.get("/v1/models/other").json()["parent"] == "gpt"
    assert client.get("/v1/models/none").status_code == 404


def test_vectors_of_texts_have_length_one_and_know_the_adapter(client: TestClient) -> None:
    asked = {"input": ["a list", "a tuple"]}
    base, other = (client.post("/v1/embeddings", json={**asked, "model": name}).json() for name in ("gpt", "other"))
    vector = base["data"][0]["embedding"]
    assert sum(value**2 for value in vector) == pytest.approx(1, abs=1e-4)
    assert vector != other["data"][0]["embedding"]
    for wrong in ({"input": []}, {"input": "x", "dimensions": 3}, {"input": ["x"] * 5}):
        assert client.post("/v1/embeddings", json=wrong).status_code == 400
