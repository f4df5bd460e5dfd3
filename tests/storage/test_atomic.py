from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from zoo.errors import OutputError
from zoo.storage import atomic


def names(folder):
    return sorted(item.name for item in folder.iterdir())


def test_files_are_written_whole_with_the_folders_above_them(tmp_path):
    path = tmp_path / "a" / "b" / "c.txt"
    atomic.write_text(path, "x\r\né\ud800")
    assert path.read_bytes() == "x\r\né\\ud800".encode()
    atomic.write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(path.parent) == ["c.txt"]


def test_new_files_have_the_usual_mode_and_old_ones_keep_theirs(tmp_path):
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    usual = stat.S_IMODE(plain.stat().st_mode)
    atomic.write_bytes(tmp_path / "a", b"a")
    atomic.save_tensors(tmp_path / "b", {"x": torch.rand(3)})
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"} == {usual}
    (tmp_path / "a").chmod(0o600)
    atomic.write_bytes(tmp_path / "a", b"b")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600


def test_json_is_readable_and_refuses_what_is_not_json(tmp_path):
    atomic.write_json(tmp_path / "a.json", {"é": [1, 2.5, None]})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"é": [1, 2.5, None]}
    with pytest.raises(ValueError, match="JSON"):
        atomic.write_json(tmp_path / "a.json", {"x": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"é": [1, 2.5, None]}
    assert names(tmp_path) == ["a.json"]


def test_tensors_of_every_layout_come_back_equal(tmp_path):
    base = torch.randn(6, 4)
    tensors = {
        "base": base,
        "again": base,
        "view": base[2:4],
        "transposed": base.T,
        "scalar": torch.randn(()),
        "empty": torch.empty(0, 3),
        "empty too": torch.empty(0, 3),
        "half": torch.randn(3).to(torch.bfloat16),
        "bytes": torch.randint(0, 255, (5,), dtype=torch.uint8),
        "learned": torch.nn.Parameter(torch.randn(2)),
    }
    atomic.save_tensors(tmp_path / "t.safetensors", tensors, {"step": "3"})
    loaded = load_file(tmp_path / "t.safetensors")
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype, name
        assert torch.equal(loaded[name], tensor.detach()), name
    with safe_open(tmp_path / "t.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "step": "3"}


def no_space(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("where", ["fsync", "replace"])
@pytest.mark.parametrize(
    "write",
    [
        lambda path: atomic.write_bytes(path, b"new"),
        lambda path: atomic.write_json(path, {"new": 1}),
        lambda path: atomic.save_tensors(path, {"new": torch.rand(9)}),
    ],
    ids=["bytes", "json", "tensors"],
)
def test_a_full_disk_is_one_error_and_leaves_the_old_file(tmp_path, monkeypatch, where, write):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, where, no_space)
    with pytest.raises(OutputError, match=r"^cannot write \S+/file: No space left on device$"):
        write(path)
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


LIMITED = """
import resource, sys, torch
from zoo.storage import atomic
from zoo.errors import OutputError
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
for write in (
    lambda: atomic.write_bytes(sys.argv[1], bytes(100_000)),
    lambda: atomic.save_tensors(sys.argv[1], {"x": torch.zeros(100_000)}),
):
    try:
        write()
    except OutputError as error:
        assert "\\n" not in str(error)
        print(error)
"""


def test_a_write_that_the_system_cuts_short_leaves_nothing(tmp_path):
    pytest.importorskip("resource")
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "file")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=env)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all("File too large" in line for line in lines), done.stdout
    assert names(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_devices_are_written_to_and_not_replaced():
    atomic.write_bytes("/dev/null", b"gone")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    with pytest.raises(OutputError, match="cannot write /dev/full: No space left on device"):
        atomic.write_bytes("/dev/full", b"x")
    with pytest.raises(OutputError, match="it is a device"):
        atomic.save_tensors("/dev/full", {})
    assert stat.S_ISCHR(Path("/dev/full").stat().st_mode)


@pytest.mark.parametrize("below", ["file/x", "file/x/y"])
def test_a_path_below_a_file_is_one_error(tmp_path, below):
    (tmp_path / "file").write_bytes(b"old")
    for attempt in (
        lambda: atomic.write_bytes(tmp_path / below, b""),
        lambda: atomic.save_tensors(tmp_path / below, {}),
        lambda: atomic.staged_folder(tmp_path / below).__enter__(),
    ):
        with pytest.raises(OutputError, match="cannot write"):
            attempt()
    assert (tmp_path / "file").read_bytes() == b"old"


def test_a_folder_is_no_file_and_a_file_no_folder(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="it is a folder"):
        atomic.write_bytes(tmp_path / "folder", b"")
    with pytest.raises(OutputError, match="a file of that name exists"), atomic.staged_folder(tmp_path / "file"):
        pass
    with pytest.raises(OutputError, match="null character"):
        atomic.write_bytes("a\0b", b"")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_an_unwritable_folder_is_one_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied"):
        atomic.write_bytes(tmp_path / "x", b"")
    tmp_path.chmod(0o700)


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    atomic.write_bytes(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_a_new_folder_appears_at_the_end(tmp_path):
    with atomic.staged_folder(tmp_path / "a" / "out") as staged:
        (staged / "x").write_text("1")
        assert not (tmp_path / "a" / "out").exists()
    assert names(tmp_path / "a") == ["out"]
    assert names(tmp_path / "a" / "out") == ["x"]


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt()])
def test_a_folder_that_fails_changes_nothing(tmp_path, error):
    out = tmp_path / "out"
    out.mkdir()
    (out / "x").write_text("old")
    with pytest.raises(type(error)), atomic.staged_folder(out) as staged:  # noqa: PT012
        (staged / "x").write_text("new")
        raise error
    assert (out / "x").read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_staged_files_replace_their_namesakes_and_spare_the_rest(tmp_path):
    out = tmp_path / "out"
    (out / "sub").mkdir(parents=True)
    for name in ("x", "mine", "sub/mine", "sub/y"):
        (out / name).write_text("old")
    with atomic.staged_folder(out) as staged:
        (staged / "sub").mkdir()
        for name in ("x", "sub/y", "sub/z"):
            (staged / name).write_text("new")
    found = {str(path.relative_to(out)): path.read_text() for path in out.rglob("*") if path.is_file()}
    assert found == {"x": "new", "mine": "old", "sub/mine": "old", "sub/y": "new", "sub/z": "new"}
    assert names(tmp_path) == ["out"]


def test_digest_is_the_sha256(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert atomic.digest(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
