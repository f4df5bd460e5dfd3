"""What a Hub may cost: it is busy for ever, silent, endless, or answers something that is no answer."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

import zoo
from zoo.errors import HubError
from zoo.hub import limits
from zoo.hub.adapters import resolve_path

from .conftest import small
from .server import TOKEN, Hub, git_sha1, running

REVISION, TREE = r"GET api/models/me/x/revision", r"GET api/models/me/x/tree"
HEAD, GET = r"HEAD me/x/resolve", r"GET me/x/resolve"
PUSH = ["repos/create", "preupload", "objects/batch", "PUT lfs/", "/commit/"]


@pytest.fixture(autouse=True)
def impatient(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where the client itself waits, whose waits nothing bounds."""
    from huggingface_hub import file_download
    from huggingface_hub.utils import _http

    class Clock:
        def sleep(self, seconds: float) -> None:
            pytest.fail(f"the client waits {seconds} seconds")

        def __getattr__(self, name: str) -> Any:
            return getattr(time, name)

    monkeypatch.setattr(_http, "time", Clock())
    monkeypatch.setattr(file_download, "time", Clock())


def refused(match: str) -> None:
    with pytest.raises(HubError, match=match) as caught:
        resolve_path("me/x")
    assert "\n" not in str(caught.value)
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize("step", [REVISION, TREE, HEAD, GET])
@pytest.mark.parametrize("after", ["1000000000", "9" * 30, "-5", "Wed, 21 Oct 2099 07:28:00 GMT", "soon"])
def test_a_busy_hub_is_waited_for_by_zoo_alone(step: str, after: str, hub: Hub, adapter: dict[str, bytes]) -> None:
    hub.make("me/x", adapter)
    for code in (429, 503):
        hub.faults.clear()
        headers = {"Retry-After": after, "RateLimit": '"api";r=0;t=1000000000'}
        hub.fails(step, "status", times=-1, code=code, headers=headers)
        refused(rf"the Hub answered HTTP {code} \(it is busy or out of order\); try again")


def test_many_files_wait_once(hub: Hub) -> None:
    from zoo.hub.download import snapshot

    hub.make("me/x", {"config.json": b"{}", **{f"model-{n}.safetensors": b"x" * n for n in range(40)}})
    hub.fails(GET, "status", times=-1)
    with pytest.raises(HubError, match="HTTP 503"):
        snapshot("me/x")
    assert sum("resolve" in line for line in hub.asked) < 60


@pytest.mark.parametrize("step", PUSH)
def test_a_push_to_a_busy_hub_ends(step: str, hub: Hub, drawn: zoo.Samples) -> None:
    hub.fails(step, "status", times=-1, code=429, headers={"Retry-After": "1000000000"})
    with pytest.raises(HubError, match="HTTP 429"):
        small().push("me/x", samples=drawn)


@pytest.mark.parametrize("step", [TREE, GET])
def test_a_silent_hub_is_not_asked_for_ever(
    step: str, hub: Hub, adapter: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants, file_download
    from huggingface_hub.utils import _http

    for module in (_http, file_download):
        monkeypatch.setattr(module.time, "sleep", lambda seconds: None, raising=False)
    monkeypatch.setattr(limits, "TIMEOUTS", dict.fromkeys(limits.TIMEOUTS, 0.1))
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    hub.make("me/x", adapter)
    hub.fails(step, lambda server: time.sleep(1.0), times=-1)
    refused("the connection to the Hub broke, or it does not answer")
    assert len(hub.asked) <= 38


DAMAGED = {
    "truncated": b'{"id": "me/x", "sh',
    "a page of HTML": b"<html>log in</html>",
    "nothing": b"",
    "null": b"null",
    "a number": b"7",
    "numbers": b"[1, 2]",
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "no text": b'{"a": "\xff\xfe"}',
    "digits": b'{"sha": ' + b"9" * 6000 + b"}",
}


@pytest.mark.parametrize("body", DAMAGED.values(), ids=DAMAGED)
def test_an_answer_that_is_none(body: bytes, hub: Hub, adapter: dict[str, bytes], drawn: zoo.Samples) -> None:
    hub.make("me/x", adapter)
    for step in (REVISION, TREE):
        hub.faults.clear()
        hub.fails(step, "body", times=-1, code=200, body=body, headers={"Content-Type": "application/json"})
        refused("me/x: the Hub.s answer is damaged, or no Hub.s .*; try again, and check HF_ENDPOINT|without a commit")
    if body == DAMAGED["a page of HTML"]:
        for step in PUSH[1:3]:
            hub.faults.clear()
            hub.fails(step, "body", times=-1, code=200, body=body)
            with pytest.raises(HubError, match="the Hub's answer is damaged"):
                small().push("me/x", samples=drawn)


@pytest.mark.parametrize(
    "change",
    [{"size": -1}, {"size": "7"}, {"size": True}, {"path": 7}, {"lfs": {"oid": "zz", "size": 1}}, {"path": None}],
)
def test_a_listing_with_wrong_types(change: dict[str, Any], hub: Hub, adapter: dict[str, bytes]) -> None:
    hub.make("me/x", adapter)
    rows = [{"type": "file", "path": name, "size": len(data), "oid": git_sha1(data)} for name, data in adapter.items()]
    rows[0] |= change
    hub.fails(TREE, "body", times=-1, code=200, body=json.dumps(rows).encode())
    refused("the Hub lists|the Hub's answer is damaged")


def test_an_answer_without_an_end(hub: Hub, adapter: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    hub.make("me/x", adapter)
    link = {"Link": f'<{hub.url}/api/models/me/x/tree/main>; rel="next"'}
    monkeypatch.setattr(limits, "ANSWERS", 20)
    monkeypatch.setattr(limits._Bound, "answers", 20)
    monkeypatch.setattr(limits._Bound.__init__, "__defaults__", (20, 0))
    hub.fails(TREE, "body", times=-1, code=200, body=b"[]", headers=link)
    refused("the Hub's answer has no end")
    hub.faults.clear()
    hub.fails(REVISION, "body", times=-1, code=200, body=b" " * (limits.ANSWER + 1))
    refused("the Hub's answer is longer than")
    hub.faults.clear()
    hub.fails(rf"{GET}.*adapter_config", "body", times=-1, code=200, body=b" " * 2_000_000)
    refused("the Hub's answer is longer than|damaged")


def test_the_token_goes_to_the_hub_alone(hub: Hub, adapter: dict[str, bytes]) -> None:
    with running() as other:
        hub.make("me/x", adapter)
        for step, code, headers in (
            (TREE, 200, {"Link": f'<{other.url}/a>; rel="next"'}),
            (REVISION, 302, {"Location": f"{other.url}/b"}),
            (rf"{GET}.*adapter_config", 302, {"Location": f"{other.url}/c"}),
        ):
            hub.faults.clear()
            hub.fails(step, "body", times=-1, code=code, headers=headers, body=b"[]")
            with pytest.raises(HubError):
                resolve_path("me/x")
        assert {line.split()[-1] for line in other.asked} >= {"a", "b", "c"}
        assert set(other.tokens) == {None}
        hub.faults.clear()
        for step in (REVISION, HEAD):
            hub.faults.clear()
            hub.fails(step, "body", times=-1, code=302, headers={"Location": "file:///etc/passwd"})
            with pytest.raises(HubError):
                resolve_path("me/x")


@pytest.mark.parametrize("tag", ["../../../evil", "{}/evil", "..", "x" * 5000])
def test_a_digest_is_no_path(tag: str, hub: Hub, adapter: dict[str, bytes], tmp_path: Path) -> None:
    sha = hub.make("me/x", adapter).head().sha
    before = {path for path in tmp_path.iterdir() if path.name != "home"}
    headers = {"ETag": f'"{tag.format(tmp_path)}"', "X-Repo-Commit": sha}
    hub.fails(r"me/x/resolve/.*/zoo\.json", "body", times=-1, code=200, headers=headers, body=adapter["zoo.json"])
    refused("the Hub's answer has an impossible ETag")
    assert {path for path in tmp_path.iterdir() if path.name != "home"} == before


def test_a_file_of_another_commit(hub: Hub, adapter: dict[str, bytes]) -> None:
    hub.make("me/x", adapter)
    headers = {"ETag": f'"{git_sha1(adapter["zoo.json"])}"', "X-Repo-Commit": "b" * 40}
    hub.fails(r"me/x/resolve/.*/zoo\.json", "body", times=-1, code=200, headers=headers, body=adapter["zoo.json"])
    refused("the Hub answered with zoo.json of another commit")


def test_requests_of_others_are_left_alone(hub: Hub, adapter: dict[str, bytes]) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    hub.make("me/x", adapter)
    resolve_path("me/x")
    hub.fails(REVISION, "status")
    with pytest.raises(HfHubHTTPError):
        HfApi().model_info("me/x", revision="main")
    assert limits._active.get() is None
