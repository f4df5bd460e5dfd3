"""Rot in the cache: content that changes while a file's size and time stay."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from huggingface_hub import constants

from zoo.errors import HubError
from zoo.hub import verify
from zoo.hub.download import snapshot
from zoo.hub.listing import RemoteFile
from zoo.hub.verify import matches_digest
from zoo.storage import contents
from zoo.storage.contents import content_sums

from .server import Hub

WEIGHTS = bytes(range(256)) * 8192 + b"end"  # a little more than 2 MiB
LARGE = "model.safetensors"


def rot(blob: Path, place: int = 1_234_567, bit: int = 3) -> None:
    """Change one bit, and set the file's time back."""
    state = blob.stat()
    with blob.open("r+b") as file:
        file.seek(place)
        (old,) = file.read(1)
        file.seek(place)
        file.write(bytes([old ^ 1 << bit]))
    os.utime(blob, ns=(state.st_atime_ns, state.st_mtime_ns))


@pytest.mark.parametrize("name", [LARGE, "plain.txt"])  # compared with its sha256, with git's sha1
@pytest.mark.parametrize("process", ["the same", "another"])
def test_rot_in_a_base_is_healed_or_told(
    name: str, process: str, hub: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sha = hub.make("me/base", {"config.json": b"{}", LARGE: WEIGHTS, "plain.txt": WEIGHTS}).head().sha
    monkeypatch.setattr(verify, "_SETTLED", -1.0)  # so that this process believes what it has read
    folder = snapshot("me/base")
    for place in (0, 1_234_567, len(WEIGHTS) - 1):
        rot((folder / name).resolve(), place)
        if process == "another":
            verify._read_here.clear()
        caplog.clear()
        snapshot("me/base", sha)
        assert (folder / name).read_bytes() == WEIGHTS
        (told,) = [one.message for one in caplog.records if one.levelno >= logging.WARNING]
        assert told.startswith(f"me/base@{sha[:12]}: {name} was damaged")
        assert told.endswith("it was downloaded again")
    rot((folder / name).resolve())
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match=rf"{name} was damaged, and is no longer in the cache: HF_HUB_OFFLINE is set"):
        snapshot("me/base", sha)
    assert not (folder / name).exists()


def test_a_file_is_read_once_in_a_process_and_not_hashed_again_in_the_next(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha = hub.make("me/base", {"config.json": b"{}", LARGE: WEIGHTS}).head().sha
    read: list[str] = []
    for name, function in (("content_sums", content_sums), ("_has_digest", verify._has_digest)):
        monkeypatch.setattr(verify, name, lambda *args, f=function, n=name: (read.append(n), f(*args))[1])
    monkeypatch.setattr(verify, "_SETTLED", -1.0)
    for _ in range(3):
        snapshot("me/base", sha)
    assert [one for one in read if one == "content_sums"] == ["content_sums"]
    large = lambda: read.count("_has_digest")  # noqa: E731
    verify._read_here.clear()
    before = large()
    snapshot("me/base", sha)
    assert read.count("content_sums") == 2
    assert large() - before == 1, "of config.json, which is small"


def test_a_file_without_a_digest_is_what_it_was_at_first(hub: Hub, tmp_path: Path) -> None:
    path, unknown = tmp_path / LARGE, RemoteFile(len(WEIGHTS), "")
    path.write_bytes(WEIGHTS)
    assert matches_digest(path, unknown)
    verify._read_here.clear()
    assert matches_digest(path, unknown)
    rot(path)
    assert not matches_digest(path, unknown)


def test_a_damaged_note_is_no_reason_to_refuse_a_file(hub: Hub, tmp_path: Path) -> None:
    hub.make("me/base", {"config.json": b"{}", LARGE: WEIGHTS})
    snapshot("me/base")
    (note,) = (tmp_path / "home" / "assets" / "zoo" / "verified").iterdir()
    good = note.read_text()
    for text in ("", "[", "7", "[" * 10_000, good.replace("9", "8")):
        note.write_text(text)
        verify._read_here.clear()
        snapshot("me/base")
        assert note.read_text() == good


def test_sums_see_what_changes_and_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "_SEGMENT", 1 << 20)
    path, seen = tmp_path / "file", set()
    data = bytearray(os.urandom(2_200_003))
    data[17] = data[9] ^ 1  # two that are swapped below
    changes = [
        {},
        {0: data[0] ^ 1},
        {len(data) - 1: data[-1] ^ 128},
        {9: data[9] ^ 4, 9 + 8 * 512: data[9 + 8 * 512] ^ 4},  # one column
        {9: data[17], 17: data[9]},  # one row
        {place: data[place + 4096] for place in range(4096)},
        {place: data[place + (1 << 20)] for place in range(1 << 20)},
    ]
    for change in changes:
        changed = bytearray(data)
        for place, value in change.items():
            changed[place] = value
        path.write_bytes(changed)
        seen.add(content_sums(path))
    path.write_bytes(data + b"\0")
    seen.add(content_sums(path))
    assert len(seen) == len(changes) + 1
