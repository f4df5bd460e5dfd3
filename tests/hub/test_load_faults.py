"""Faults while loading: the right files after another try, or one clear error and a clean cache."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants

from zoo.errors import HubError
from zoo.hub.adapters import resolve_path
from zoo.hub.download import snapshot
from zoo.storage import atomic

from .server import TOKEN, Hub

Cached = Callable[[], dict[str, bytes]]
REVISION, TREE = r"GET api/models/me/x/revision", r"GET api/models/me/x/tree"
FILES = {
    "config": r"me/x/resolve/.*/adapter_config\.json",
    "tensors": r"me/x/resolve/.*/adapter_model\.safetensors",
    "zoo": r"me/x/resolve/.*/zoo\.json",
}
STEPS = [REVISION, TREE, *(f"{verb} {file}" for verb in ("HEAD", "GET") for file in FILES.values())]
CONTENTS = [f"GET {file}" for file in FILES.values()]


def fails_in_one_line(where: str, match: str | None = None) -> str:
    with pytest.raises(HubError, match=match) as caught:
        resolve_path(where)
    assert "\n" not in str(caught.value)
    assert TOKEN not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    "fault", [("status", {"code": 503}), ("status", {"code": 429, "headers": {"Retry-After": "1"}}), ("reset", {})]
)
def test_a_hub_that_is_busy_for_a_while(
    step: str, fault: tuple[str, dict], hub: Hub, adapter: dict[str, bytes], cached: Cached
) -> None:
    hub.make("me/x", adapter)
    hub.fails(step, fault[0], times=2, **fault[1])
    folder = resolve_path("me/x")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == adapter == cached()
    assert hub.faults[0].times == 0


@pytest.mark.parametrize("step", CONTENTS)
@pytest.mark.parametrize("kind", ["half", "short", "flip"])
def test_content_that_breaks_once(step: str, kind: str, hub: Hub, adapter: dict[str, bytes], cached: Cached) -> None:
    hub.make("me/x", adapter)
    hub.fails(step, kind)
    folder = resolve_path("me/x")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == adapter == cached()


@pytest.mark.parametrize("step", CONTENTS)
@pytest.mark.parametrize("kind", ["half", "short", "flip", "reset", "status"])
def test_content_that_stays_broken(step: str, kind: str, hub: Hub, adapter: dict[str, bytes], cached: Cached) -> None:
    hub.make("me/x", adapter)
    hub.fails(step, kind, times=-1)
    told = fails_in_one_line("me/x")
    if kind == "flip":
        assert "arrived damaged twice, its content is not what the Hub's digest says" in told
    assert cached().items() <= adapter.items()
    hub.faults.clear()
    assert resolve_path("me/x").is_dir()
    assert cached() == adapter


@pytest.mark.parametrize("step", [REVISION, TREE])
@pytest.mark.parametrize(("kind", "match"), [("status", "HTTP 503"), ("reset", "connection to the Hub broke")])
def test_a_hub_that_stays_away(step: str, kind: str, match: str, hub: Hub, adapter: dict[str, bytes]) -> None:
    hub.make("me/x", adapter)
    hub.fails(step, kind, times=-1)
    fails_in_one_line("me/x", match)
    if step == REVISION:
        assert len(hub.asked) == 4, "three more tries"


@pytest.mark.parametrize(
    ("code", "match"),
    [(401, "no such repository, or a private one"), (403, "access is restricted"), (404, "no such repository")],
)
@pytest.mark.parametrize("warm", [False, True])
def test_no_access_is_said_and_the_cache_is_no_way_around_it(
    code: int, match: str, warm: bool, hub: Hub, adapter: dict[str, bytes], cached: Cached
) -> None:
    hub.make("me/x", adapter)
    if warm:
        resolve_path("me/x")
    hub.asked.clear()
    hub.fails("me/x", "status", times=-1, code=code)
    fails_in_one_line("me/x", match)
    assert len(hub.asked) == 1, "not worth another try"
    assert cached() == (adapter if warm else {})


def test_a_push_in_between_does_not_mix_two_commits(hub: Hub, adapter: dict[str, bytes]) -> None:
    repository = hub.make("me/x", adapter)
    first = repository.head().sha
    other = dict.fromkeys(adapter, b"{}")
    hub.fails(TREE, lambda server: server.repositories["me/x"].add(other) and None)
    folder = resolve_path("me/x")
    assert folder.name == first != repository.head().sha
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == adapter
    assert all(first in line for line in hub.asked if "resolve" in line)


def test_a_commit_in_the_cache_asks_for_nothing(hub: Hub, adapter: dict[str, bytes]) -> None:
    sha = hub.make("me/x", adapter).head().sha
    assert resolve_path(f"me/x@{sha}").name == sha
    hub.asked.clear()
    assert resolve_path(f"me/x@{sha}").name == sha
    assert hub.asked == []


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "zoo.json"])
def test_a_file_that_was_damaged_in_the_cache_is_fetched_again(
    name: str, hub: Hub, adapter: dict[str, bytes], cached: Cached
) -> None:
    sha = hub.make("me/x", adapter).head().sha
    blob = (resolve_path("me/x") / name).resolve()
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 4
    blob.write_bytes(data)
    for where in ("me/x", f"me/x@{sha}"):
        resolve_path(where)
        assert cached() == adapter
    blob.write_bytes(b"")
    hub.fails("me/x", "reset", times=-1)
    fails_in_one_line(f"me/x@{sha}")
    assert name not in cached()


def test_files_that_are_not_those_of_zoo_json(hub: Hub, adapter: dict[str, bytes], cached: Cached) -> None:
    changed = adapter["adapter_config.json"].replace(b'"r": 2', b'"r": 3')
    assert changed != adapter["adapter_config.json"]
    hub.make("me/x", {**adapter, "adapter_config.json": changed})
    fails_in_one_line("me/x", r"adapter_config\.json is not the file whose sha256 is in zoo\.json")
    assert cached() == {}


# Without the Hub


@pytest.mark.parametrize("how", ["variable", "503", "reset"])
def test_without_the_hub_the_cached_commit_is_used_and_named(
    how: str, hub: Hub, adapter: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sha = hub.make("me/x", adapter, branches={}).head().sha
    hub.repositories["me/x"].branches["dev"] = sha
    resolve_path("me/x")
    resolve_path("me/x@dev")
    if how == "variable":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    else:
        hub.fails("me/x", "status" if how == "503" else "reset", times=-1)
    for where, named in (("me/x", "me/x@main"), ("me/x@dev", "me/x@dev")):
        caplog.clear()
        assert resolve_path(where).name == sha
        (record,) = [one for one in caplog.records if one.name == "zoo"]
        assert record.levelno == logging.WARNING
        why = "HF_HUB_OFFLINE is set" if how == "variable" else "the Hub could not be reached"
        assert record.message == f"{named}: {why}; commit {sha} is used from the cache"
    assert resolve_path(f"me/x@{sha}").name == sha
    for unknown in ("me/x@other", "me/y", f"me/x@{'b' * 40}"):
        fails_in_one_line(unknown)


def test_what_another_library_has_cached_is_used_too(hub: Hub, adapter: dict[str, bytes]) -> None:
    from huggingface_hub import snapshot_download

    hub.make("me/x", adapter)
    theirs = snapshot_download("me/x")
    hub.fails("me/x", "reset", times=-1)
    assert str(resolve_path("me/x")) == theirs
    blob = (Path(theirs) / "zoo.json").resolve()
    blob.write_bytes(blob.read_bytes().replace(b"0", b"1", 1))
    fails_in_one_line("me/x")  # the blob's own name is its digest


# Models


def test_a_base_is_verified_once(hub: Hub, monkeypatch: pytest.MonkeyPatch, cached: Cached) -> None:
    weights = bytes(range(256)) * 8192  # 2 MiB
    served = {"config.json": b"{}", "model.safetensors": weights}
    sha = hub.make("me/base", {**served, "run.py": b"x", "pytorch_model.bin": b"x"}).head().sha
    hub.fails(r"GET me/base/resolve/.*safetensors", "flip")
    read: list[str] = []
    digest = atomic.digest
    monkeypatch.setattr(atomic, "digest", lambda path: (read.append(Path(path).name), digest(path))[1])
    folder = snapshot("me/base")
    assert cached() == served
    assert read == ["model.safetensors"] * 2
    assert snapshot("me/base", sha) == folder
    assert len(read) == 2, "the large file is not read again"
    (folder / "model.safetensors").resolve().write_bytes(b"\1" + weights[1:])
    hub.fails(r"GET me/base/resolve/.*safetensors", "flip", times=-1)
    with pytest.raises(HubError, match=r"model\.safetensors arrived damaged twice"):
        snapshot("me/base", sha)
    assert cached() == {"config.json": b"{}"}


def test_a_model_that_an_adapter_names_is_read_at_its_commit(hub: Hub, adapter: dict[str, bytes]) -> None:
    """Bases are found from zoo.json alone; the one in a registry by its name."""
    import zoo

    hub.make("me/x", adapter)
    model = zoo.load("me/x", device="cpu")
    assert (model.entry.name, model.entry.plugin, model.active) == ("vae", "vae", ("default",))
    assert model.records["default"]["base"] == json.loads(adapter["zoo.json"])["base"]
