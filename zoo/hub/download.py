"""Download files of one commit into the client's cache, and verify those that are there already."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

from zoo.catalog.names import is_safe
from zoo.errors import HubError
from zoo.hub import listing
from zoo.hub.listing import Commit
from zoo.hub.trouble import translate_errors, warn, with_retries
from zoo.hub.verify import discard, matches_digest

MODEL_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "SHA256SUMS")
PICKLES = ("*.bin", "*.pth", "*.json", "*.txt")
WORKERS = 4
SLACK = 2**16  # bytes that an answer may have beside the file: an error's text


def snapshot(repository: str, revision: str | None = None, commit: Commit | None = None) -> Path:
    """Download a Hub repository's weights and configuration; return their folder in the cache.

    All files come from one commit. Each file's content is compared with the Hub's digest. Pickled weights (`.bin`,
    `.pth`) are fetched only if the repository has no safetensors, and nothing in them is executed.

    Args:
        repository: `owner/name`.
        revision: a branch, tag or commit; default main.
        commit: the commit that the revision was resolved to already.

    Raises:
        HubError: the Hub cannot be reached or refuses, or the repository does not exist.
    """
    commit = commit or listing.resolve(repository, revision)
    safe = any(name.endswith(".safetensors") for name in commit.files)
    patterns = MODEL_FILES if safe else PICKLES
    names = [name for name in commit.files if any(fnmatch(name, pattern) for pattern in patterns)]
    return fetch(commit, names)


def fetch(commit: Commit, names: Iterable[str]) -> Path:
    """Download these files of a commit, verify them, and return the commit's folder in the cache.

    Raises:
        HubError: a file could not be downloaded, or its content is wrong; it is then no longer in the cache.
    """
    names = list(names)
    _check_names(commit, names)
    with translate_errors(str(commit)):
        if not commit.fresh and not commit.offline and not all((commit.folder / name).is_file() for name in names):
            listing.fetch_sha(commit.repository, commit.sha)  # fails at once; the client would try for half a minute
        if len(names) == 1:
            _one(commit, names[0])
        else:
            with ThreadPoolExecutor(WORKERS) as workers:
                list(workers.map(_until_one_fails(commit), names))
    listing.warn_if_offline(commit)
    listing.remember(commit)
    return commit.folder


def _until_one_fails(commit: Commit) -> Callable[[str], None]:
    """Return a function that fetches a file, unless one failed before: each would wait as long for the same Hub."""
    failed = threading.Event()

    def one(name: str) -> None:
        try:
            if not failed.is_set():
                _one(commit, name)
        except BaseException:
            failed.set()
            raise

    return one


def _one(commit: Commit, name: str) -> Path:
    path = _get(commit, name)
    if matches_digest(path, commit.files[name]):
        return path
    discard(path)
    with translate_errors(f"{commit}: {name} was damaged, and is no longer in the cache"):
        path = _get(commit, name)
    if matches_digest(path, commit.files[name]):
        warn(f"{commit}: {name} was damaged, its content was not what the Hub's digest says; it was downloaded again")
        return path
    discard(path)
    raise HubError(
        f"{commit}: {name} arrived damaged twice, its content is not what the Hub's digest says; nothing of it is "
        "kept: try again later"
    )


def _get(commit: Commit, name: str) -> Path:
    """Return the path of a file in the cache, downloaded if it is not there. Raises the client's errors."""
    from huggingface_hub import hf_hub_download

    most = commit.files[name].size + SLACK
    call = partial(hf_hub_download, commit.repository, name, revision=commit.sha)
    path = Path(with_retries(call, most=most, seconds=None))
    if not path.resolve().is_relative_to(_root(commit)):
        raise HubError(f"{commit}: {name} lies outside the cache, in {path.resolve()}; remove it there")
    if not (commit.folder / name).is_file():
        discard(path)
        raise HubError(f"{commit}: the Hub answered with {name} of another commit than {commit.sha}; try again")
    return path


def _root(commit: Commit) -> Path:
    """Return the client's cache folder; the blobs of some repositories are shared beside their folders."""
    return listing.cache_folder(commit.repository).parent.resolve()


def _check_names(commit: Commit, names: list[str]) -> None:
    folded: dict[str, str] = {}
    for name in names:
        if not is_safe(name):
            raise HubError(f"{commit}: the repository has a file {name!r}, which cannot be a plain file below a folder")
        other = folded.setdefault(name.casefold(), name)
        if other != name:
            raise HubError(f"{commit}: {other} and {name} are one file where case does not count; rename one of them")
