"""What `zoo serve --ray` is told, without Ray."""

from __future__ import annotations

import os

import pytest

from zoo.cli import main
from zoo.errors import ZooError
from zoo.serving.ray import scale
from zoo.serving.ray.calls import call_of
from zoo.serving.ray.scale import Scale, scale_of


@pytest.mark.parametrize(("text", "wanted"), [("1", Scale()), ("2", Scale(2, 2)), ("1:4", Scale(1, 4))])
def test_how_many(text: str, wanted: Scale) -> None:
    assert scale_of(text) == wanted


@pytest.mark.parametrize("text", ["", "0", "-1", "4:1", "0:2", "1:", ":2", "1:2:3", "two", "²", "1001", "99999999"])
def test_what_is_no_number_of_replicas(text: str) -> None:
    with pytest.raises(ZooError, match="expected a number such as 2, or the least and the most such as 1:4"):
        scale_of(text)


def test_a_scale_is_said() -> None:
    assert (str(Scale(2, 2)), str(Scale(1, 4))) == ("2", "1 to 4")


def test_without_ray(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(scale, "find_spec", lambda name: None)
    assert main(["serve", "gpt", "--ray"]) != 0
    assert "zoo serve --ray needs Ray Serve: pip install 'adapter-zoo[ray]'" in capsys.readouterr().err


@pytest.mark.parametrize("option", [("--replicas", "2"), ("--ray-address", "auto"), ("--replica-gpus", "1")])
def test_options_of_ray_alone(option: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "gpt", *option]) != 0
    assert f"{option[0]} is of --ray" in capsys.readouterr().err


def test_a_ray_of_our_own_asks_for_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "find_spec", lambda name: object())
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_USAGE_STATS_ENABLED"):
        monkeypatch.setenv(name, "before")  # so that it is as it was after the test
        monkeypatch.delenv(name)
    scale.prepare("auto")
    assert "RAY_AUTH_MODE" not in os.environ, "a running cluster has its own"
    scale.prepare(None)
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def test_a_call_has_what_the_application_needs_and_no_secret() -> None:
    headers = [
        (b"host", b"elsewhere"),
        (b"authorization", b"Bearer secret"),
        (b"content-type", b"application/json"),
        (b"transfer-encoding", b"chunked"),
    ]
    scope = {"method": "POST", "path": "/v1/models/é", "query_string": b"a=1", "headers": headers}
    made = call_of(scope, b"{}").scope()
    assert dict(made["headers"]) == {
        b"content-type": b"application/json",
        b"host": b"localhost",
        b"content-length": b"2",
    }
    assert (made["method"], made["path"], made["query_string"]) == ("POST", "/v1/models/é", b"a=1")
