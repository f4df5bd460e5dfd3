"""Compare cached files with the Hub's digests, and discard those that differ.

The client compares sizes only. Here the content is compared: with the sha256 of large files, and with git's sha1 of the
others. A large file that was verified is noted with its size and time, so that the next load does not read it twice.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path

from zoo.bounded.json_text import read_json
from zoo.errors import HubError, OutputError
from zoo.hub.listing import RemoteFile, zoo_cache
from zoo.storage import atomic

NOTED = 2**20  # bytes; smaller files are read again each time
_CHUNK = 2**20


def matches_digest(path: Path, remote: RemoteFile) -> bool:
    """Return whether the file's content has the Hub's digest; compare only the size if the Hub gives no digest."""
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
    note = zoo_cache("verified", f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()}.json")
    if state.st_size >= NOTED and _read(note) == seen:
        return True
    matches = atomic.digest(path) == digest if remote.sha256 else digest in blob_digests(path, digest)
    if not matches:
        return False
    if state.st_size >= NOTED:
        with suppress(OutputError):
            atomic.write_text(note, json.dumps(seen))
    return True


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
