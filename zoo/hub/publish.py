"""Push files in one commit: all of them or none, and only once, even if a reply is lost or another push intervenes.

A commit names its parent, so that the Hub accepts it only on top of the commit that was read. If the reply to it is
lost, or another push was faster, the branch is read again: the files may be there already.
"""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from zoo.catalog.names import is_commit, is_repository, is_revision
from zoo.errors import HubError
from zoo.hub import trouble
from zoo.hub.download import fetch
from zoo.hub.listing import MAIN, Commit, RemoteFile, list_files
from zoo.hub.trouble import is_passing, request, retry_after, scrub, status, translate_errors, with_retries
from zoo.hub.verify import blob_digests
from zoo.storage.atomic import digest

TRIES = 5
LONGEST = 100.0  # seconds after the first failure, after which no further try begins
CONFLICT = (409, 412)  # another commit came first
# Returns the files of a commit; its argument reads a text file of the repository as it is now (None: no such file).
Content = Callable[[Callable[[str], str | None]], Mapping[str, Path]]
TEXTS = (".json", ".md", ".txt")  # files that the Hub does not store apart
TEXT = 2**20  # bytes of a text that is read from the repository


@dataclass(frozen=True)
class PushResult:
    """The result of a push.

    Attributes:
        url: the commit's address.
        sha: the commit's sha.
        repo: the repository, `owner/name`.
        branch: the branch that was pushed to.
        unchanged: whether the branch had all of the files already, so that nothing was sent.
    """

    url: str
    sha: str
    repo: str
    branch: str
    unchanged: bool = False


def publish(
    repository: str, content: Content, *, message: str, private: bool = False, branch: str | None = None
) -> PushResult:
    """Push files to a repository in one commit; create the repository and the branch if they are missing.

    Args:
        repository: `owner/name`.
        content: returns the commit's files, path in the repository → local path, given the repository's present ones.
        message: the commit's message.
        private: whether a new repository is private.
        branch: default main.

    Raises:
        HubError: the push failed; at most an empty repository or branch was created then.
    """
    where, branch = f"{repository}@{branch}" if branch else repository, branch or MAIN
    if not is_repository(repository):
        raise HubError(f"{repository!r}: not a repository's name, expected owner/name")
    if not is_revision(branch) or is_commit(branch):
        raise HubError(f"{repository}: {branch!r} cannot be a branch's name")
    with translate_errors(where, writing=True):
        _make_repository(repository, private)
        _make_branch(repository, branch)
        return _commit(repository, branch, content, scrub(" ".join(message.split())) or "Push with zoo")


def _commit(repository: str, branch: str, content: Content, message: str) -> PushResult:
    from huggingface_hub import HfApi

    api, sent = HfApi(), False
    first: str | None = None
    failed: float | None = None
    for attempt in range(TRIES):
        head, present = _read_branch(repository, branch)
        files = content(lambda name, head=head, present=present: _text(repository, head, present, name))  # type: ignore[misc]
        mark = _content_mark(files)
        if sent and (own := _find_commit(repository, branch, first, mark)):
            return PushResult(_url(repository, own), own, repository, branch)
        if head is not None and all(_same(path, present.get(name)) for name, path in files.items()):
            return PushResult(_url(repository, head), head, repository, branch, unchanged=not sent)
        first = first or head
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # the client's own, of its HTTP library
                additions = list(_additions(files))
                for one in additions:
                    if not one.path_in_repo.endswith(TEXTS):  # alone, for the client sends several from its own threads
                        request(partial(api.preupload_lfs_files, repository, [one], revision=branch), seconds=None)
                commit = partial(api.create_commit, repository, additions, revision=branch, parent_commit=head)
                done = request(partial(commit, commit_message=message, commit_description=mark), seconds=None)
            return PushResult(str(done.commit_url), str(done.oid), repository, branch)
        except Exception as error:
            failed = failed or time.monotonic()
            if attempt == TRIES - 1 or time.monotonic() - failed > LONGEST or not _worth_retrying(error):
                raise
            sent = True
            delay = trouble.DELAYS[min(attempt, len(trouble.DELAYS) - 1)]
            time.sleep(max(delay, min(retry_after(error), trouble.PATIENCE)))
    raise AssertionError("unreachable")


def _worth_retrying(error: BaseException) -> bool:
    """Return whether the commit may exist in spite of the error, or may succeed on top of the newest commit."""
    if status(error) in CONFLICT or is_passing(error):
        return True
    cause = error.__cause__  # the client wraps the error of a file
    return cause is not None and is_passing(cause)


def _read_branch(repository: str, branch: str) -> tuple[str | None, dict[str, RemoteFile]]:
    """Return the branch's newest commit and its files; (None, {}) if there is no commit yet."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import EntryNotFoundError, RevisionNotFoundError

    try:
        sha = with_retries(lambda: HfApi().model_info(repository, revision=branch)).sha
        return (sha, list_files(repository, sha)) if is_commit(sha) else (None, {})
    except (RevisionNotFoundError, EntryNotFoundError):
        if branch != MAIN:
            raise
        return None, {}


def _additions(files: Mapping[str, Path]) -> Iterator[Any]:
    from huggingface_hub import CommitOperationAdd

    for name, path in sorted(files.items()):
        yield CommitOperationAdd(name, path)


def _same(path: Path, remote: RemoteFile | None) -> bool:
    """Return whether the Hub's file has this content, by its digest."""
    if remote is None or remote.size != path.stat().st_size:
        return False
    if remote.sha256:
        return digest(path) == remote.sha256
    return len(remote.blob) in (40, 64) and remote.blob in blob_digests(path, remote.blob)


def _content_mark(files: Mapping[str, Path]) -> str:
    """Return a line for the commit's description by which a commit of this content is recognised in the log."""
    lines = (f"{digest(path)} {name}\n" for name, path in sorted(files.items()))
    return f"content sha256:{hashlib.sha256(''.join(lines).encode()).hexdigest()}"


def _find_commit(repository: str, branch: str, first: str | None, mark: str) -> str | None:
    """Return the commit with this mark after the commit `first`, if the log has one."""
    from huggingface_hub import HfApi

    with suppress(Exception):  # without a log the files themselves are compared
        for commit in with_retries(lambda: HfApi().list_repo_commits(repository, revision=branch)):
            if commit.commit_id == first:
                return None
            if mark in f"{commit.title}\n{commit.message}" and is_commit(commit.commit_id):
                return str(commit.commit_id)
    return None


def _text(repository: str, head: str | None, present: Mapping[str, RemoteFile], name: str) -> str | None:
    """Return the text of a file in the repository; None if it has no such file."""
    if head is None or name not in present:
        return None
    if present[name].size > TEXT:
        raise HubError(f"{repository}: its {name} has {present[name].size:,} bytes, expected at most {TEXT:,}")
    path = fetch(Commit(repository, head, {**present}, fresh=True), [name]) / name
    return path.read_text(encoding="utf-8", errors="replace")


def _url(repository: str, sha: str) -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{repository}/commit/{sha}"


def _make_repository(repository: str, private: bool) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        with_retries(lambda: api.create_repo(repository, private=private))
        return
    except HfHubHTTPError as error:
        if status(error) not in (403, 409):
            raise
        refused = error
    if status(refused) == 409 and not private:  # it exists
        return
    try:
        info = with_retries(lambda: api.model_info(repository))
    except HfHubHTTPError:
        if status(refused) == 403:  # may not create it, and it is not there either
            raise refused from None
        raise
    if private and getattr(info, "private", None) is False:
        raise HubError(
            f"{repository} exists and is public, and private=True was given: make it private in its settings, or give "
            "another name"
        )


def _make_branch(repository: str, branch: str) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RevisionNotFoundError

    if branch == MAIN:
        return
    api = HfApi()
    try:
        with_retries(lambda: api.model_info(repository, revision=branch))
    except RevisionNotFoundError:
        with_retries(lambda: api.create_branch(repository, branch=branch, exist_ok=True))
