"""Folders are replaced at once: killed writers leave the old or the new, others' files stay, leftovers go."""

from __future__ import annotations

import errno
import os
import random
import signal
import time

import pytest

from zoo.errors import AdapterError, OutputError
from zoo.storage import atomic, locks, staging, swap

FILES = [f"file{number}" for number in range(6)]
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


def write(out, text):
    with atomic.staged_folder(out) as staged:
        for name in FILES:
            (staged / name).write_text(text)


def content(out):
    return {str(path.relative_to(out)): path.read_text() for path in out.rglob("*") if path.is_file()}


@pytest.fixture
def out(tmp_path):
    """A folder with files of zoo's and of a person's, in a folder of their own."""
    out = tmp_path / "place" / "out"
    write(out, "a")
    (out / "mine").mkdir()
    (out / "mine" / "notes").write_text("mine")
    (out / "link").symlink_to("mine/notes")
    return out


def endlessly(out):
    """Write into the folder in another process, which has begun; return its id."""
    begun, begins = os.pipe()
    child = os.fork()
    if child:
        os.close(begins)
        os.read(begun, 1)
        os.close(begun)
        return child
    try:
        os.write(begins, b".")
        while True:
            write(out, "b")
            write(out, "a")
    finally:
        os._exit(1)


@needs_fork
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fork with threads
def test_a_killed_writer_leaves_the_old_files_or_the_new_ones(out):
    chance, left = random.Random(0), 0
    for number in range(100):
        if number >= 12 and left:
            break
        child = endlessly(out)
        time.sleep(chance.uniform(0.001, 0.02))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found = content(out)
        assert {found.pop("mine/notes"), found.pop("link")} == {"mine"}
        assert found in (dict.fromkeys(FILES, "a"), dict.fromkeys(FILES, "b"))
        left += len(list(out.parent.glob(".zoo-*")))
    assert left
    write(out, "c")
    assert [path.name for path in out.parent.iterdir()] == ["out"]


@needs_fork
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_readers_beside_a_writer_read_one_version(out):
    child = endlessly(out)

    def read():
        texts = {(out / name).read_text() for name in FILES}
        if len(texts) != 1:
            raise AdapterError("two versions")
        return texts.pop()

    try:
        assert {atomic.read_whole(out, read) for _ in range(100)} <= {"a", "b"}
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_an_error_of_a_folder_that_nobody_changes_is_raised_at_once(out):
    calls = []

    def read():
        calls.append(1)
        raise AdapterError("damaged")

    with pytest.raises(AdapterError, match="damaged"):
        atomic.read_whole(out, read)
    assert len(calls) == 1


@pytest.mark.parametrize("how", ["no system call", "no second names", "at work there"])
def test_without_an_exchange_every_file_is_replaced(out, monkeypatch, how):
    def refused(*args, **kwargs):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    inode = out.stat().st_ino
    if how == "no system call":
        monkeypatch.setattr(swap, "_system_call", lambda: None)
    elif how == "no second names":
        monkeypatch.setattr(os, "link", refused)
    else:
        monkeypatch.chdir(out / "mine")
    write(out, "b")
    assert content(out) == {**dict.fromkeys(FILES, "b"), "mine/notes": "mine", "link": "mine"}
    assert out.stat().st_ino == inode
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_what_comes_while_a_folder_is_replaced_stays(out, monkeypatch):
    exchanged = swap._exchanged

    def late(first, second):
        (out / "late").write_text("mine")
        (out / "mine" / "notes").unlink()
        (out / "mine" / "notes").write_text("newer")
        return exchanged(first, second)

    monkeypatch.setattr(swap, "_exchanged", late)
    write(out, "b")
    assert content(out) == {**dict.fromkeys(FILES, "b"), "mine/notes": "newer", "link": "newer", "late": "mine"}


def test_a_file_in_the_place_of_a_folder_is_an_error_and_nothing_changes(out):
    before = content(out)
    with pytest.raises(OutputError, match="mine there is a folder"), atomic.staged_folder(out) as staged:
        (staged / "mine").write_text("")
    with pytest.raises(OutputError, match="file0 there is a file"), atomic.staged_folder(out) as staged:
        (staged / "file0").mkdir()
    assert content(out) == before


def test_leftovers_go_and_what_has_a_writer_stays(tmp_path):
    for name in (".zoo-0123456789ab", ".zoo-mine", ".zoo-0123456789ab.txt"):
        (tmp_path / name).mkdir()
    (tmp_path / ".zoo-ba9876543210").write_text("of an earlier version")
    (tmp_path / ".zoo-aaaaaaaaaaaa").symlink_to(tmp_path / ".zoo-mine")
    with staging.staging(tmp_path / "x") as live:
        staging.sweep(tmp_path)
        assert live.is_dir()
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {".zoo-mine", ".zoo-0123456789ab.txt", ".zoo-aaaaaaaaaaaa"}


def test_one_writer_at_a_time(tmp_path):
    out = tmp_path / "run"
    with locks.one_writer(out):
        with pytest.raises(OutputError, match=rf"another run, of process {os.getpid()}, is writing there"):  # noqa: SIM117
            with locks.one_writer(out):
                pass
        assert [path.name for path in out.iterdir()] == [locks.LOCK]
    assert not out.exists()
    out.mkdir()
    with locks.one_writer(out):
        pass
    assert list(out.iterdir()) == []
    (out / locks.LOCK).write_text("99999999")  # of a killed process
    with locks.one_writer(out):
        pass
    assert list(out.iterdir()) == []
