"""Which commit a name stands for, and which files it holds: asked of the Hub, remembered for when it is not there.

A commit never changes, so its listing is kept and not asked for again; a branch is asked for every time. Where the Hub
does not answer, what the branch was the last time is used; where it answers that there is no access, it is not.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.catalog.names import is_commit, is_repository, is_revision
from zoo.errors import HubError, OutputError
from zoo.hub.trouble import is_unreachable, say, translate_errors, with_retries
from zoo.storage import atomic

MAIN = "main"


@dataclass(frozen=True)
class RemoteFile:
    """size: in bytes. blob: git's sha1 of the content, "" if unknown. sha256: of a file in large-file storage."""

    size: int
    blob: str
    sha256: str | None = None


@dataclass(frozen=True)
class Commit:
    """One commit of a repository and all of its files. offline: the Hub could not be asked, the cache is what counts.

    asked: whether the Hub has just answered. branch: what was asked for, where that was not the commit itself.
    """

    repository: str
    sha: str
    files: dict[str, RemoteFile]
    branch: str | None = None
    asked: bool = False
    offline: bool = False

    def __str__(self) -> str:
        return f"{self.repository}@{self.branch or self.sha[:12]}"

    @property
    def folder(self) -> Path:
        """Where the cache has the commit's files."""
        return storage(self.repository) / "snapshots" / self.sha


def resolve(repository: str, revision: str | None = None) -> Commit:
    """The commit that `revision` (default: main) is now, with its files.

    Raises `HubError` where the Hub refuses, or does not answer and the cache has no such commit.
    """
    where = f"{repository}@{revision}" if revision else repository
    if not is_repository(repository):
        raise HubError(f"{where}: not a repository's name, expected owner/name")
    if revision is not None and not is_revision(revision):
        raise HubError(f"{repository}: {revision!r} is no revision, expected a branch, a tag or a commit")
    known = _remembered(repository, revision or "") if is_commit(revision) else None
    if known is not None:
        return Commit(repository, str(revision), known, offline=_offline_mode())
    branch = None if is_commit(revision) else revision or MAIN
    with translate_errors(where):
        try:
            sha = ask(repository, branch or revision)
            found = _remembered(repository, sha) or _ask_files(repository, sha)
        except Exception as error:
            cached = _cached(repository, branch, revision) if is_unreachable(error) else None
            if cached is None:
                raise
            return cached
    return Commit(repository, sha, found, branch, asked=True)


def ask(repository: str, revision: str | None) -> str:
    """The sha of the commit that the Hub has under `revision`; the client's errors."""
    from huggingface_hub import HfApi

    info = with_retries(lambda: HfApi().model_info(repository, revision=revision))
    if not is_commit(info.sha):
        raise HubError(f"{repository}: the Hub answered without a commit, {info.sha!r}")
    return str(info.sha)


def remember(commit: Commit) -> None:
    """Keep what the branch is, now that its files are in the cache, where the client keeps it too."""
    if commit.branch is not None and commit.asked:
        _keep(storage(commit.repository) / "refs" / commit.branch, commit.sha)


def warn_if_offline(commit: Commit) -> None:
    """Tell the user that the Hub was not asked."""
    if commit.offline:
        why = "HF_HUB_OFFLINE is set" if _offline_mode() else "the Hub could not be reached"
        say(f"{commit}: {why}; commit {commit.sha} is used from the cache")


def storage(repository: str) -> Path:
    """The client's cache folder of a repository."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"


def own_cache(*parts: str) -> Path:
    """zoo's own place in the client's cache."""
    from huggingface_hub import constants

    return Path(constants.HF_ASSETS_CACHE).joinpath("zoo", *parts)


def list_files(repository: str, sha: str) -> dict[str, RemoteFile]:
    """What the Hub has in a commit; the client's errors. Raises `HubError` for a listing that makes no sense."""
    from huggingface_hub import HfApi

    found: dict[str, RemoteFile] = {}
    for item in with_retries(lambda: list(HfApi().list_repo_tree(repository, revision=sha, recursive=True))):
        size = getattr(item, "size", None)
        if size is None:  # a folder
            continue
        lfs = getattr(item, "lfs", None)
        if isinstance(size, bool) or not isinstance(size, int) or size < 0 or not isinstance(item.path, str):
            raise HubError(f"{repository}: the Hub lists {item.path!r} with the size {size!r}")
        sha256 = getattr(lfs, "sha256", None)
        found[item.path] = RemoteFile(size, str(getattr(item, "blob_id", "") or ""), sha256)
    return found


def _ask_files(repository: str, sha: str) -> dict[str, RemoteFile]:
    found = list_files(repository, sha)
    plain = {name: [one.size, one.blob, one.sha256] for name, one in found.items()}
    _keep(_listing(repository, sha), json.dumps({"format": 1, "files": plain}))
    return found


def _listing(repository: str, sha: str) -> Path:
    return own_cache("listings", repository.replace("/", "--"), f"{sha}.json")


def _keep(path: Path, text: str) -> None:
    with suppress(OutputError, OSError):  # a cache that cannot be written is no reason to fail
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            atomic.write_text(path, text)


def _remembered(repository: str, sha: str) -> dict[str, RemoteFile] | None:
    try:
        content = json.loads(_listing(repository, sha).read_text(encoding="utf-8"))
        return {str(name): RemoteFile(int(one[0]), str(one[1]), one[2]) for name, one in content["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return None


def _cached(repository: str, branch: str | None, revision: str | None) -> Commit | None:
    """The commit as the cache knows it, from the branch's last visit; None where it does not."""
    sha = revision
    if branch is not None:
        try:
            sha = (storage(repository) / "refs" / branch).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return None
    if not is_commit(sha):
        return None
    found = _remembered(repository, str(sha)) or _seen(storage(repository) / "snapshots" / str(sha))
    return Commit(repository, str(sha), found, branch, offline=True) if found else None


def _seen(snapshot: Path) -> dict[str, RemoteFile]:
    """The files of a commit that another library has cached. The client names their blobs by their digests."""
    found = {}
    for path in snapshot.rglob("*"):
        if path.is_file():
            blob = path.resolve()
            sha256 = blob.name if re.fullmatch(r"[0-9a-f]{64}", blob.name) else None
            sha1 = blob.name if is_commit(blob.name) else ""
            found[path.relative_to(snapshot).as_posix()] = RemoteFile(blob.stat().st_size, sha1, sha256)
    return found


def _offline_mode() -> bool:
    from huggingface_hub import constants

    value: Any = constants.HF_HUB_OFFLINE
    return bool(value)
