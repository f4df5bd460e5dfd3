"""Compare cached files with the Hub's digests, and discard those that differ.

The client compares sizes only. Here the content is compared: with the sha256 of large files, and with git's sha1 of the
others. A large file that was verified is noted with sums of its content. Later processes compare with those once, which
takes a fraction of the time, and with the digest again if they differ. Nothing is believed because of a file's size
and time alone: rot on a disk changes neither.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import suppress
from pathlib import Path

from zoo.bounded.json_text import read_json
from zoo.errors import HubError, OutputError
from zoo.hub.listing import RemoteFile, zoo_cache
from zoo.storage import atomic
from zoo.storage.contents import content_sums

NOTED = 2**20  # bytes; smaller files are compared with their digest each time
_CHUNK = 2**20
_SETTLED = 2.0  # seconds after which a further change of a file shows in its times, on any file system
# Files that this process has read and found to be right: path → what `_state` said of them then. The system sets the
# time of the last change itself, so within a process a file that looks the same was not written to.
_read_here: dict[str, tuple[object, ...]] = {}


def matches_digest(path: Path, remote: RemoteFile) -> bool:
    """Return whether the file's content has the Hub's digest.

    If the Hub gives no digest, a large file is compared with what it was when it was first seen, a small one by size.
    """
    digest = remote.sha256 or remote.blob
    try:
        state = path.stat()
        seen = _state(state, digest)
        if state.st_size != remote.size:
            return False
        if state.st_size < NOTED:
            return not digest or _has_digest(path, remote)
        place = str(path.resolve())
        if _read_here.get(place) != seen:
            if not _matches(path, remote, digest):
                return False
            if time.time() - state.st_ctime > _SETTLED and seen == _state(path.stat(), digest):
                _read_here[place] = seen
    except OSError:
        return False
    return True


def _state(state: os.stat_result, digest: str) -> tuple[object, ...]:
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns, digest


def _matches(path: Path, remote: RemoteFile, digest: str) -> bool:
    note = zoo_cache("verified", f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()}.json")
    sums = content_sums(path)
    seen, noted = [remote.size, digest, sums], _read(note)
    if noted == seen:
        return True
    if digest:
        if not _has_digest(path, remote):
            return False
    elif isinstance(noted, list) and noted[:2] == seen[:2]:
        return False
    with suppress(OutputError):
        atomic.write_text(note, json.dumps(seen))
    return True


def _has_digest(path: Path, remote: RemoteFile) -> bool:
    if remote.sha256:
        return atomic.digest(path) == remote.sha256
    return remote.blob in blob_digests(path, remote.blob)


def blob_digests(path: Path, like: str) -> tuple[str, ...]:
    """Return the git blob digest and the plain digest of a file, with the algorithm that matches the length of `like`.

    Some servers give the plain digest. A `like` whose length is neither that of sha1 nor of sha256 is returned as it
    is, since it is no digest to compare with.
    """
    kind = {40: "sha1", 64: "sha256"}.get(len(like))
    if kind is None:
        return (like,)
    git, plain = (hashlib.new(kind, usedforsecurity=False) for _ in range(2))
    git.update(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            git.update(chunk)
            plain.update(chunk)
    return git.hexdigest(), plain.hexdigest()


def discard(path: Path) -> None:
    """Remove a file from the cache: the link, the blob that it points to, and every link between the two."""
    while path.is_symlink():
        target = path.parent / path.readlink()
        with suppress(OSError):
            path.unlink()
        path = target
    with suppress(OSError):
        path.unlink()


def _read(note: Path) -> object:
    try:
        return read_json(note, error=HubError)
    except (OSError, HubError):
        return None
