"""Whether a file in the cache is the one that the Hub has, and how to get rid of one that is not.

The client compares sizes only. Here the content is compared: with the sha256 of large files, and with git's sha1 of the
others. A large file that was found right is noted with its size and time, so that the next load does not read it twice.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path

from zoo.errors import OutputError
from zoo.hub.listing import RemoteFile, own_cache
from zoo.storage import atomic

NOTED = 2**20  # smaller files are read again each time
_CHUNK = 2**20


def matches_digest(path: Path, remote: RemoteFile) -> bool:
    """Whether the file's content is what the Hub's digest says; by its size alone where the Hub gives no digest."""
    try:
        state = path.stat()
    except OSError:
        return False
    if state.st_size != remote.size:
        return False
    digest = remote.sha256 or remote.blob
    if not digest:
        return True
    seen = [state.st_size, state.st_mtime_ns, digest]
    note = own_cache("verified", f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()}.json")
    if state.st_size >= NOTED and _read(note) == seen:
        return True
    right = atomic.digest(path) == digest if remote.sha256 else digest in names_of(path, digest)
    if not right:
        return False
    if state.st_size >= NOTED:
        with suppress(OutputError):
            atomic.write_text(note, json.dumps(seen))
    return True


def names_of(path: Path, like: str) -> tuple[str, ...]:
    """What git calls a file's content, and its plain digest, which some servers give: sha1, or sha256 if `like` is.

    A name of another length is no digest: it is given back.
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
    """Take a file out of the cache: the pointer, what it leads to, and every link between the two."""
    while path.is_symlink():
        target = path.parent / path.readlink()
        with suppress(OSError):
            path.unlink()
        path = target
    with suppress(OSError):
        path.unlink()


def _read(note: Path) -> object:
    try:
        return json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
