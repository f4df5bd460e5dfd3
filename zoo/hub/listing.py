"""Resolve a revision to a commit and the list of its files, from the Hub or, while it is unreachable, from the cache.

A commit never changes, so its listing is cached and requested once; a branch is requested every time. If the Hub does
not answer, the branch's last known commit is used; if it answers that there is no access, it is not.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.bounded.json_text import read_json
from zoo.catalog.names import is_commit, is_repository, is_revision
from zoo.errors import HubError, OutputError
from zoo.hub.trouble import is_unreachable, translate_errors, warn, with_retries
from zoo.storage import atomic

MAIN = "main"
LISTING = 64 << 20  # bytes of a repository's listing in the cache


@dataclass(frozen=True)
class RemoteFile:
    """A file of a commit.

    Attributes:
        size: in bytes.
        blob: git's sha1 of the content, "" if unknown.
        sha256: digest of the content of a file in large-file storage (LFS), else None.
    """

    size: int
    blob: str
    sha256: str | None = None


@dataclass(frozen=True)
class Commit:
    """One commit of a repository and all of its files.

    Attributes:
        repository: `owner/name`.
        sha: the commit's full sha.
        files: path in the repository → file.
        branch: the branch or tag that was resolved, None if a commit was given.
        fresh: whether the Hub has just answered for it.
        offline: whether the Hub could not be reached, so that only the cache is used.
    """

    repository: str
    sha: str
    files: dict[str, RemoteFile]
    branch: str | None = None
    fresh: bool = False
    offline: bool = False

    def __str__(self) -> str:
        return f"{self.repository}@{self.branch or self.sha[:12]}"

    @property
    def folder(self) -> Path:
        """The commit's folder in the cache."""
        return cache_folder(self.repository) / "snapshots" / self.sha


def resolve(repository: str, revision: str | None = None) -> Commit:
    """Return the commit that `revision` (default: main) is now, with its files.

    Raises:
        HubError: the Hub refuses, or does not answer and the commit is not in the cache.
    """
    where = f"{repository}@{revision}" if revision else repository
    if not is_repository(repository):
        raise HubError(f"{where}: not a repository's name, expected owner/name")
    if revision is not None and not is_revision(revision):
        raise HubError(f"{repository}: {revision!r} is no revision, expected a branch, a tag or a commit")
    known = _read_listing(repository, revision or "") if is_commit(revision) else None
    if known is not None:
        return Commit(repository, str(revision), known, offline=_offline_mode())
    branch = None if is_commit(revision) else revision or MAIN
    with translate_errors(where):
        try:
            sha = fetch_sha(repository, branch or revision)
            found = _read_listing(repository, sha) or _fetch_listing(repository, sha)
        except Exception as error:
            cached = _cached(repository, branch, revision) if is_unreachable(error) else None
            if cached is None:
                raise
            return cached
    return Commit(repository, sha, found, branch, fresh=True)


def fetch_sha(repository: str, revision: str | None) -> str:
    """Request the sha of the commit that `revision` is now. Raises the client's errors."""
    from huggingface_hub import HfApi

    info = with_retries(lambda: HfApi().model_info(repository, revision=revision))
    if not isinstance(info.sha, str) or not is_commit(info.sha):
        raise HubError(f"{repository}: the Hub answered without a commit, {info.sha!r}")
    return str(info.sha)


def remember(commit: Commit) -> None:
    """Keep the branch's commit in the cache, once its files are in the cache, in the file that the client uses too."""
    if commit.branch is not None and commit.fresh:
        _keep(cache_folder(commit.repository) / "refs" / commit.branch, commit.sha)


def warn_if_offline(commit: Commit) -> None:
    """Warn the user if the commit is from the cache because the Hub was not reached."""
    if commit.offline:
        why = "HF_HUB_OFFLINE is set" if _offline_mode() else "the Hub could not be reached"
        warn(f"{commit}: {why}; commit {commit.sha} is used from the cache")


def cache_folder(repository: str) -> Path:
    """Return the client's cache folder of a repository."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"


def zoo_cache(*parts: str) -> Path:
    """Return a path in zoo's folder of the client's cache."""
    from huggingface_hub import constants

    return Path(constants.HF_ASSETS_CACHE).joinpath("zoo", *parts)


def list_files(repository: str, sha: str) -> dict[str, RemoteFile]:
    """Request the files of a commit. Raises the client's errors too.

    Raises:
        HubError: the listing is not valid.
    """
    from huggingface_hub import HfApi

    found: dict[str, RemoteFile] = {}
    for item in with_retries(lambda: list(HfApi().list_repo_tree(repository, revision=sha, recursive=True))):
        size = getattr(item, "size", None)
        if size is None:  # a folder
            continue
        blob, sha256 = getattr(item, "blob_id", None), getattr(getattr(item, "lfs", None), "sha256", None)
        if type(size) is not int or size < 0 or not isinstance(item.path, str):
            raise HubError(f"{repository}: the Hub lists {item.path!r:.200} with the size {size!r:.40}; try again")
        if sha256 is not None and not _is_digest(sha256, 64):
            raise HubError(f"{repository}: the Hub lists {item.path!r:.200} with the sha256 {sha256!r:.80}; try again")
        known = _is_digest(blob, 40) or _is_digest(blob, 64)
        found[item.path] = RemoteFile(size, str(blob) if known else "", sha256)
    return found


def _is_digest(value: object, length: int) -> bool:
    return isinstance(value, str) and len(value) == length and re.fullmatch(r"[0-9a-f]+", value) is not None


def _fetch_listing(repository: str, sha: str) -> dict[str, RemoteFile]:
    found = list_files(repository, sha)
    plain = {name: [one.size, one.blob, one.sha256] for name, one in found.items()}
    _keep(_listing_file(repository, sha), json.dumps({"format": 1, "files": plain}))
    return found


def _listing_file(repository: str, sha: str) -> Path:
    return zoo_cache("listings", repository.replace("/", "--"), f"{sha}.json")


def _keep(path: Path, text: str) -> None:
    with suppress(OutputError, OSError):  # a cache that cannot be written is no reason to fail
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            atomic.write_text(path, text)


def _read_listing(repository: str, sha: str) -> dict[str, RemoteFile] | None:
    try:
        content = read_json(_listing_file(repository, sha), limit=LISTING, error=HubError)
        return {str(name): RemoteFile(int(one[0]), str(one[1]), one[2]) for name, one in content["files"].items()}
    except (OSError, HubError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return None


def _cached(repository: str, branch: str | None, revision: str | None) -> Commit | None:
    """Return the commit from the cache, a branch as it was last seen; None if it is not there."""
    sha = revision
    if branch is not None:
        try:
            sha = (cache_folder(repository) / "refs" / branch).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return None
    if not is_commit(sha):
        return None
    found = _read_listing(repository, str(sha)) or _snapshot_files(cache_folder(repository) / "snapshots" / str(sha))
    return Commit(repository, str(sha), found, branch, offline=True) if found else None


def _snapshot_files(snapshot: Path) -> dict[str, RemoteFile]:
    """Return the files of a commit that another library has cached. The client names their blobs by their digests."""
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
