"""Hub references: which are valid, and which are not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import zoo
from zoo.catalog.names import Reference, is_repository, is_safe, parse
from zoo.errors import AdapterError
from zoo.hub.adapters import resolve_path

from .server import Hub


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("me/x", Reference("me/x")),
        ("openai-community/gpt2", Reference("openai-community/gpt2")),
        ("me/x.y_z@v1.0", Reference("me/x.y_z", "", "v1.0")),
        ("me/x/a", Reference("me/x", "a")),
        ("me/x/a/checkpoint-100@refs/pr/1", Reference("me/x", "a/checkpoint-100", "refs/pr/1")),
        (f"me/x@{'a' * 40}", Reference("me/x", "", "a" * 40)),
        ("me/x/epoch=3, best", Reference("me/x", "epoch=3, best")),
    ],
)
def test_places(text: str, place: Reference) -> None:
    assert parse(text) == place
    assert str(place) == text


BAD = [
    *("gpt2", "", "/", "me/", "/me/x", "./me/x", "../x", "me/..", "me/../x", "me/x/..", "me/x/../../etc", "me/x/./a"),
    *("me/x/a/", "me/x//a", "me\\x", "me/x\\a", "C:/x", "me/x/C:", "me/x/.git", "me/x/-a", "me/x/a.", "me/x/a ", "~/x"),
    *("me/x@", "me/x@..", "me/x@a/../b", "me/x@/a", "me/x@a b", "me/x@-a", "me/x@a@b", "me/x\n", "me/x/a\x00", "ä/x"),
    *("https://huggingface.co/me/x", "me/x--y", "me/x..y", "me/x.git", "-me/x", f"me/{'x' * 100}", f"me/x/{'a' * 500}"),
]


@pytest.mark.parametrize("text", BAD)
def test_words_that_are_no_place(text: str, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path / "home" if (tmp_path / "home").is_dir() else tmp_path)
    assert parse(text) is None
    if not Path(text.rstrip("\0")).expanduser().is_dir():
        with pytest.raises(zoo.ZooError, match="expected"):
            resolve_path(text)
        with pytest.raises(zoo.ZooError):
            zoo.load(text, device="cpu") if text != "gpt2" else zoo.load("gpt2-nowhere")
    assert hub.asked == []


@pytest.mark.parametrize(
    "path",
    ["../x", "a/../x", "/x", "a//b", "a\\b", "c:x", "a/", "", ".", "a/.", "a\nb", "a\0", "x" * 401, 3, None, "a. "],
)
def test_paths_that_leave_a_folder(path: object) -> None:
    assert not is_safe(path)


@pytest.mark.parametrize("path", ["a", "a/b.json", ".gitattributes", "a b/ü.txt", "unet/x-00001-of-2.safetensors"])
def test_paths_that_do_not(path: str) -> None:
    assert is_safe(path)


@pytest.mark.parametrize("name", ["gpt2", "a/b/c", "./a", "/a/b", "../a", "a/", "/a", "", "a b/c", "ä/b", "a/b\n"])
def test_names_that_no_repository_has(name: str) -> None:
    assert not is_repository(name)


def test_a_local_folder_comes_first(
    hub: Hub, adapter: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "me" / "x"
    folder.mkdir(parents=True)
    for name, data in adapter.items():
        (folder / name).write_bytes(data)
    assert resolve_path("me/x") == Path("me/x")
    assert zoo.load("me/x", device="cpu").active == ("default",)
    assert zoo.load("vae", lora="./me/x", device="cpu").active == ("default",)
    assert hub.asked == []


def test_revisions_and_folders(hub: Hub, adapter: dict[str, bytes]) -> None:
    repository = hub.make("me/x", {f"a/b/{name}": data for name, data in adapter.items()})
    first = repository.head().sha
    repository.add(dict.fromkeys((f"a/b/{name}" for name in adapter), b"{}"))
    repository.branches["dev/one"] = first
    for revision in (first, "dev/one"):
        folder = resolve_path(f"me/x/a/b@{revision}")
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == adapter
    assert zoo.load(f"me/x/a/b@{first}", device="cpu").active == ("default",)
    assert zoo.load("me/x/a/b", revision=first, device="cpu").active == ("default",)
    with pytest.raises(zoo.UnknownNameError, match="has a revision, and revision 'v2' was given too"):
        zoo.load(f"me/x/a/b@{first}", revision="v2")
    for where in ("me/x", "me/x/a", "me/x/c"):
        with pytest.raises(AdapterError, match=r'but in its folders a/b; name one, e\.g\. lora=\{"b": "me/x/a/b'):
            resolve_path(f"{where}@dev/one")


def test_an_adapter_and_more_of_them(hub: Hub, adapter: dict[str, bytes]) -> None:
    hub.make("me/x", adapter)
    model = zoo.load("me/x", lora={"more": 2}, bits=4, device="cpu", dtype=torch.bfloat16)
    assert model.active == ("default", "more")
    assert model.scheme is not None
    assert model.dtype == torch.bfloat16
    with pytest.raises(AdapterError, match="is a saved adapter and called 'default': give others other names"):
        zoo.load("me/x", lora=8)


def test_other_formats_are_fetched_by_their_names(hub: Hub) -> None:
    tensors = b"\2\0\0\0\0\0\0\0{}"
    hub.make("me/d", {"pytorch_lora_weights.safetensors": tensors, "big.bin": b"x", "README.md": b""})
    hub.make("me/l", {"lyco.safetensors": tensors, "notes.txt": b"x"})
    hub.make("me/two", {"one.safetensors": tensors, "two.safetensors": tensors})
    assert [path.name for path in resolve_path("me/d").iterdir()] == ["pytorch_lora_weights.safetensors"]
    assert [path.name for path in resolve_path("me/l").iterdir()] == ["lyco.safetensors"]
    with pytest.raises(AdapterError, match="no adapter, expected"):
        resolve_path("me/two")
    with pytest.raises(zoo.ZooError, match="names no base"):
        zoo.load("me/d")
