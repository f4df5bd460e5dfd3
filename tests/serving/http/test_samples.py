"""`/v1/sample` and `/v1/classify` of small models: what comes out, and what goes in and is refused."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

import zoo
from zoo.samples import to_pictures

PNG = {"Accept": "image/png"}


def written(picture: Image.Image, form: str = "PNG") -> str:
    out = io.BytesIO()
    picture.save(out, form)
    return base64.b64encode(out.getvalue()).decode()


def opened(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


LETTER = Image.linear_gradient("L").resize((32, 32))


@pytest.fixture(scope="module")
def vae(served) -> TestClient:
    return served("vae")


@pytest.fixture(scope="module")
def vit(served) -> TestClient:
    return served("vit", samples=3)


def test_pictures_are_those_of_the_model_as_base64_or_as_a_png(vae: TestClient) -> None:
    answer = vae.post("/v1/sample", json={"n": 2, "seed": 3, "options": {"temperature": 0.5}}).json()
    expected = zoo.load("vae", device="cpu").sample(2, seed=3, temperature=0.5).data
    assert (answer["kind"], answer["format"], answer["seed"]) == ("image", "image/png", 3)
    assert [opened(text).tobytes() for text in answer["samples"]] == [one.tobytes() for one in to_pictures(expected)]
    one = vae.post("/v1/sample", json={"seed": 3}, headers=PNG)
    assert one.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(one.content)).size == (32, 32)
    several = vae.post("/v1/sample", json={"n": 2}, headers=PNG)
    assert Image.open(io.BytesIO(several.content)).size > (32, 32)


def test_pictures_of_the_client_are_decoded_within_bounds(vae: TestClient) -> None:
    given = {"data": [written(LETTER), f"data:image/jpeg;base64,{written(LETTER, 'JPEG')}"], "mode": "reconstruct"}
    answer = vae.post("/v1/sample", json={"n": 2, "options": given})
    assert len(answer.json()["samples"]) == 2, answer.text
    large = written(Image.new("1", (5000, 5000)))
    for wrong, said in (
        ("/etc/passwd", "base64"),
        ("letters:sans", "base64"),
        ("https://x.example/a.png", "base64"),
        ("data:text/html,x", "data: URL"),
        (base64.b64encode(b"no picture").decode(), "picture 0"),
        (large, "16,777,216 pixels"),
        ([], "expected"),
        ([3], "string"),
    ):
        answer = vae.post("/v1/sample", json={"options": {"data": wrong}})
        assert answer.status_code == 400, answer.text
        assert said in answer.json()["error"]["message"]


def test_options_that_name_files_of_the_server_are_refused(vit: TestClient) -> None:
    for path in ("/v1/sample", "/v1/classify"):
        for name, value in (("paths", ["/etc"]), ("data", "letters:sans"), ("paths", None)):
            error = vit.post(path, json={"options": {name: value}}).json()["error"]
            assert (error["param"], error["code"]) == (f"options.{name}", "unsafe_option")


def test_what_a_picture_shows(vit: TestClient) -> None:
    asked = {"options": {"images": [written(LETTER), written(LETTER)]}}
    answer = vit.post("/v1/classify", json={**asked, "top": 3}).json()
    assert answer["kind"] == "posterior"
    (expected,) = zoo.load("vit", device="cpu").sample(images=[LETTER]).topk(3)
    for row in answer["data"]:
        assert [one["label"] for one in row["classes"]] == [label for label, _ in expected]
        shares = [one["probability"] for one in row["classes"]]
        assert shares == pytest.approx([share for _, share in expected], abs=1e-5)
    assert len(vit.post("/v1/classify", json=asked).json()["data"][0]["classes"]) == 26
    assert vit.post("/v1/sample", json=asked).json()["samples"][0].keys() >= {expected[0][0]}
    assert vit.post("/v1/sample", json=asked, headers=PNG).headers["content-type"] == "image/png"
    many = {"options": {"images": [written(LETTER)] * 4}}
    assert vit.post("/v1/classify", json=many).json()["error"]["code"] == "too_many_samples"


@pytest.mark.parametrize(("name", "classifies"), [("vae", False), ("vit", True), ("gpt", False)])
def test_whether_there_are_classes_is_known_before_the_first_request(served, name: str, classifies: bool) -> None:
    client = served(name)
    assert ("/v1/classify" in client.get("/v1/models").json()["data"][0]["endpoints"]) == classifies
    answer = client.post("/v1/classify", json={})
    assert (answer.status_code == 404) != classifies
    drawn = next(line for line in client.get("/metrics").text.splitlines() if line.startswith("zoo_batches_total"))
    assert (drawn.split()[1] == "0.0") != classifies, "nothing was drawn to find out"


def test_what_draws_pictures_classifies_nothing_and_says_so(vae: TestClient) -> None:
    for _ in range(2):
        answer = vae.post("/v1/classify", json={})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unsupported_endpoint")
    assert "/v1/classify" not in vae.get("/v1/models").json()["data"][0]["endpoints"]
    for path, body in (
        ("/v1/completions", {"prompt": "x"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
        ("/v1/embeddings", {"input": "x"}),
    ):
        assert vae.post(path, json=body).json()["error"]["code"] == "unsupported_endpoint"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"n": 0}, "n"),
        ({"n": 65}, "n"),
        ({"n": "2"}, "n"),
        ({"seed": 2**64}, "seed"),
        ({"steps": 3}, "steps"),
        ({"options": {"tempreature": 1}}, "options.tempreature"),
        ({"options": {"temperature": -1}}, "options.temperature"),
        ({"options": {"mode": "best"}}, "options.mode"),
        ({"options": {"ends": 2.5}}, "options.ends"),
        ({"options": []}, "options"),
        ({"model": "none"}, "model"),
        ({"adapter": "none"}, "adapter"),
    ],
)
def test_what_cannot_be_is_refused_by_name(vae: TestClient, body: dict[str, Any], param: str) -> None:
    answer = vae.post("/v1/sample", json=body)
    assert answer.status_code in (400, 404)
    assert answer.json()["error"]["param"] == param, answer.text


def test_the_schema_shows_the_options_with_their_ranges(vae: TestClient, vit: TestClient) -> None:
    made = vae.get("/openapi.json").json()
    options = made["components"]["schemas"]["Options"]["properties"]
    assert set(options) == {"mode", "data", "temperature", "ends", "size"}
    assert options["ends"]["minimum"] == 2
    assert "prior" in str(options["mode"])
    assert all(one["description"] for one in options.values())
    assert set(vit.get("/openapi.json").json()["components"]["schemas"]["Options"]["properties"]) == {"images", "top_k"}


def test_an_architecture_that_declares_no_options_takes_none(served, tmp_path: Path) -> None:
    from torch import nn

    client = served(zoo.wrap(nn.Linear(2, 2)))
    answer = client.post("/v1/sample", json={"options": {"steps": 2}})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "options.steps")
    assert client.get("/v1/models").json()["data"][0]["endpoints"] == ["/v1/sample", "/v1/classify"]
    assert client.post("/v1/sample", json={}).status_code == 500
