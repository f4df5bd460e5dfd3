"""Hostile repositories: nothing is executed, written outside the cache, too large, or read from this machine."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import zoo
from zoo.errors import AdapterError, HubError
from zoo.hub.adapters import JSON_LIMIT, LIMIT_VARIABLE, resolve_path
from zoo.hub.download import snapshot

from .server import Fault, Handler, Hub


def changed(adapter: dict[str, bytes], **values: Any) -> dict[str, bytes]:
    """Return the adapter with other values in zoo.json; `base__name` is the name in `base`."""
    own = json.loads(adapter["zoo.json"])
    for key, value in values.items():
        where, _, inner = key.partition("__")
        if inner:
            own[where][inner] = value
        else:
            own[where] = value
    return {**adapter, "zoo.json": json.dumps(own).encode()}


def downloaded(hub: Hub) -> list[str]:
    return [line.rpartition("/")[2] for line in hub.asked if line.startswith("GET") and "/resolve/" in line]


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_pickles_and_programs_are_not_even_fetched(hub: Hub, adapter: dict[str, bytes], tmp_path: Path) -> None:
    payload = pickle.dumps(Touch(tmp_path / "ran"))
    more = dict.fromkeys(("adapter_model.bin", "training_args.bin", "optimizer.pt", "scheduler.pkl"), payload)
    code = {"setup.py": b"raise SystemExit", "modeling.py": b"raise", "config.yaml": b"!!python/object/apply:os.abort"}
    hub.make("me/x", {**adapter, **more, **code, "more.safetensors": b"x"})
    zoo.load("me/x", device="cpu")
    assert set(downloaded(hub)) == set(adapter)
    hub.make("me/p", {"adapter_config.json": adapter["adapter_config.json"], "adapter_model.bin": payload})
    for call in (lambda: zoo.load("vae", lora="me/p", device="cpu"), lambda: zoo.load("me/p", device="cpu")):
        with pytest.raises(AdapterError, match=r"a pickle, adapter_model\.bin, which zoo does not execute"):
            call()
    assert "adapter_model.bin" not in downloaded(hub)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "name", ["../../../../evil.json", "/etc/evil.json", "..\\evil.json", "a/../../evil.json", "C:evil.json"]
)
def test_names_in_a_listing_that_leave_the_folder(
    name: str, hub: Hub, adapter: dict[str, bytes], cached: Callable[[], dict[str, bytes]], tmp_path: Path
) -> None:
    hub.make("me/x", adapter)
    hub.make("me/base", {"config.json": b"{}", "model.safetensors": b"x"})
    hub.hidden.add(name)
    before = set(tmp_path.parent.rglob("evil*"))
    resolve_path("me/x")  # fetches the files that it needs by name
    assert cached() == adapter
    with pytest.raises(HubError, match="cannot be a plain file below a folder"):
        snapshot("me/base")
    assert not [line for line in hub.asked if "evil" in line]
    assert set(tmp_path.parent.rglob("evil*")) == before


def test_names_that_are_one_file_where_case_does_not_count(hub: Hub) -> None:
    hub.make("me/base", {"config.json": b"{}", "Config.json": b"[]", "model.safetensors": b"x"})
    with pytest.raises(HubError, match="are one file where case does not count"):
        snapshot("me/base")


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a\\b", ""])
def test_names_in_zoo_json_that_leave_the_folder(name: str, hub: Hub, adapter: dict[str, bytes]) -> None:
    hub.make("me/x", changed(adapter, sha256={name: "0" * 64}))
    with pytest.raises(AdapterError, match="which is no file beside it"):
        resolve_path("me/x")


@pytest.mark.parametrize(
    ("name", "size", "match"),
    [
        ("adapter_model.safetensors", 9 * 2**30, r"has 9,663,676,416 bytes, expected at most .* set ZOO_MAX_ADAPTER"),
        ("adapter_config.json", JSON_LIMIT + 1, "expected at most 1,048,576"),
        ("zoo.json", 2**62, "expected at most 1,048,576"),
        ("zoo.json", -1, "lists 'zoo.json' with the size -1"),
    ],
)
def test_sizes_are_looked_at_before_a_download(
    name: str, size: int, match: str, hub: Hub, adapter: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.make("me/x", adapter)
    entry = Handler.entry
    monkeypatch.setattr(
        Handler,
        "entry",
        lambda self, path, data: {**entry(self, path, data), **({"size": size} if path == name else {})},
    )
    with pytest.raises((AdapterError, HubError), match=match):
        resolve_path("me/x")
    assert downloaded(hub) == []


def test_the_limit_is_the_users(hub: Hub, adapter: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    hub.make("me/x", adapter)
    monkeypatch.setenv(LIMIT_VARIABLE, "10")
    with pytest.raises(AdapterError, match="expected at most 10; set ZOO_MAX_ADAPTER_BYTES to allow more"):
        resolve_path("me/x")
    monkeypatch.setenv(LIMIT_VARIABLE, "many")
    with pytest.raises(HubError, match="ZOO_MAX_ADAPTER_BYTES='many': expected a number of bytes"):
        resolve_path("me/x")
    monkeypatch.setenv(LIMIT_VARIABLE, str(2**20))
    assert resolve_path("me/x").is_dir()


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"base__name": "/etc"}, "a path from a repository is not followed"),
        ({"base__name": "../../x"}, "a path from a repository is not followed"),
        ({"base__name": "~/x"}, "a path from a repository is not followed"),
        ({"base__weights": "/etc"}, "a path from a repository is not followed"),
        ({"base__weights": "../../x"}, "a path from a repository is not followed"),
        ({"base__weights": "weights"}, "expected a folder that exists, owner/name"),
        ({"base__plugin": "gpt"}, "made for the architecture 'gpt', and its base 'vae' is of 'vae'"),
        ({"base__name": "gpt"}, "made for the architecture 'vae', and its base 'gpt' is of 'gpt'"),
        ({"base__name": "os"}, "no model 'os' in the registry"),
        ({"base__name": None}, "names no base"),
        ({"base__name": ["vae"]}, "names no base"),
        ({"base__commit": {"a": 1}}, "names no base"),
        ({"base__name": "me/nowhere", "base__weights": None}, "no such repository"),
    ],
)
def test_a_base_that_a_repository_may_not_name(
    values: dict[str, Any], match: str, hub: Hub, adapter: dict[str, bytes], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    zoo.load("vae", device="cpu").save(tmp_path / "cwd" / "weights")  # would be found, if it were read
    monkeypatch.chdir(tmp_path / "cwd")
    hub.make("me/x", changed(adapter, **values))
    with pytest.raises(zoo.ZooError, match=match):
        zoo.load("me/x", device="cpu")


def test_a_folder_here_is_not_taken_for_the_repository_that_an_adapter_names(
    hub: Hub, adapter: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo.load("vae", device="cpu").save(tmp_path / "me" / "base")
    monkeypatch.chdir(tmp_path)
    hub.make("me/x", changed(adapter, base__name="me/base", base__weights="me/base"))
    with pytest.raises(HubError, match="me/base: no such repository"):
        zoo.load("me/x", device="cpu")
    hub.make("me/y", changed(adapter, base__weights="me/base"))
    with pytest.raises(HubError, match="me/base: no such repository"):
        zoo.load("me/y", device="cpu")


def test_an_adapter_is_no_base(hub: Hub, adapter: dict[str, bytes], tmp_path: Path) -> None:
    hub.make("me/x", changed(adapter, base__name="me/x", base__weights=None))
    with pytest.raises(zoo.CheckpointError, match="holds an adapter, expected the base of one"):
        zoo.load("me/x", device="cpu")
    for name, data in changed(adapter, base__name=str(tmp_path), base__weights=None).items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(zoo.CheckpointError, match="holds an adapter, expected the base of one"):
        zoo.load(str(tmp_path), device="cpu")


def test_another_base_is_refused_by_its_fingerprint(hub: Hub, adapter: dict[str, bytes]) -> None:
    hub.make("me/x", changed(adapter, base__fingerprint="0" * 32))
    with pytest.raises(AdapterError, match=r"made for the base 'vae' \(fingerprint 00000000\)"):
        zoo.load("me/x", device="cpu")


def test_a_link_in_the_cache_that_leads_elsewhere(hub: Hub, adapter: dict[str, bytes], tmp_path: Path) -> None:
    sha = hub.make("me/x", adapter).head().sha
    pointer = resolve_path("me/x") / "zoo.json"
    outside = tmp_path / "outside.json"
    outside.write_bytes(adapter["zoo.json"])
    pointer.unlink()
    pointer.symlink_to(outside)
    with pytest.raises(HubError, match="lies outside the cache"):
        resolve_path(f"me/x@{sha}")
    assert outside.read_bytes() == adapter["zoo.json"]


def test_faults_are_what_they_say(hub: Hub) -> None:
    """Of the test server: a fault is used up, and does not affect other requests."""
    hub.faults.append(Fault("GET x", "status", 1))
    assert hub.fault("GET y") is None
    assert hub.fault("GET x") is not None
    assert hub.fault("GET x") is None
