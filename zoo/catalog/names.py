"""Parse and check Hub references: `owner/name`, `owner/name@revision`, `owner/name/folder@revision`.

Every file or folder name that comes from a user or a repository is checked here before it is used.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_PART = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
_REPOSITORY = re.compile(rf"{_PART}/{_PART}")
# A folder's name: no leading dot or dash, no separator, colon (drives, streams) or control character, no dot or space
# at the end, which Windows drops.
_FOLDER = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.=+, -]*[A-Za-z0-9_=+-])?")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_ENTRY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LONGEST = 400


@dataclass(frozen=True)
class Reference:
    """A folder of a Hub repository.

    Attributes:
        repository: `owner/name`.
        folder: a path in the repository; "" for its root.
        revision: a branch, tag or commit, or None for the default branch.
    """

    repository: str
    folder: str = ""
    revision: str | None = None

    def __str__(self) -> str:
        place = f"{self.repository}/{self.folder}" if self.folder else self.repository
        return f"{place}@{self.revision}" if self.revision else place


def is_repository(name: str) -> bool:
    """Return whether a name has the form of a Hub repository, `owner/name`."""
    plain = _REPOSITORY.fullmatch(name) is not None and len(name) <= 96
    return plain and not any(odd in name for odd in ("..", "--")) and not name.endswith((".git", ".ipynb", ".", "-"))


def is_entry_name(name: str) -> bool:
    """Return whether a name has the form of a registry entry's: letters, digits, '.', '_' and '-'."""
    return _ENTRY.fullmatch(name) is not None


def is_commit(revision: str | None) -> bool:
    """Return whether a revision is a full commit sha, which always has the same files."""
    return revision is not None and _COMMIT.fullmatch(revision) is not None


def is_revision(revision: str) -> bool:
    """Return whether a revision can be a branch, tag or commit, and be used as a file name."""
    odd = ".." in revision or revision.endswith((".", ".lock", "/"))
    return len(revision) <= _LONGEST and _REVISION.fullmatch(revision) is not None and not odd


def is_safe(path: object) -> bool:
    """Return whether a path from a repository is that of a file or folder below its root, on every operating system."""
    if not isinstance(path, str) or not path or len(path) > _LONGEST:
        return False
    if any(character in '\\:*?"<>|' or ord(character) < 32 or ord(character) == 127 for character in path):
        return False
    return all(part not in ("", ".", "..") and not part.endswith((".", " ")) for part in path.split("/"))


def parse(text: str) -> Reference | None:
    """Return the reference that `text` is; None if it has not the form of one."""
    place, at, revision = text.partition("@")
    if at and not is_revision(revision):
        return None
    parts = place.split("/")
    repository, folders = "/".join(parts[:2]), parts[2:]
    if not is_repository(repository) or not all(_FOLDER.fullmatch(part) for part in folders) or len(text) > _LONGEST:
        return None
    return Reference(repository, "/".join(folders), revision if at else None)


def is_name(name: str) -> bool:
    """Return whether `zoo.load` looks `name` up in the registry, and not as a folder or Hub repository."""
    return not ("/" in name or "\\" in name or name in (".", "..") or name.startswith("~"))
