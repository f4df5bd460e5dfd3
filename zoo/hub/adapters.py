"""Saved adapters in Hub repositories: find their files, download them, and verify them."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path, PurePosixPath

from zoo.bounded.regular import check_folder
from zoo.catalog.names import Reference, parse
from zoo.errors import AdapterError, HubError, UnknownNameError
from zoo.hub import listing
from zoo.hub.download import fetch, snapshot
from zoo.hub.listing import Commit
from zoo.hub.verify import discard
from zoo.storage.file_names import (
    ADAPTER_CONFIG,
    ADAPTER_TENSORS,
    DIFFUSERS_TENSORS,
    MANIFEST,
    MODEL_CONFIGS,
    MODEL_WEIGHTS,
    PICKLES,
    PIPELINE,
)
from zoo.storage.untrusted_json import JSON_LIMIT

TENSOR_LIMIT = 8 * 2**30  # bytes, unless the environment variable sets another limit
LIMIT_VARIABLE = "ZOO_MAX_ADAPTER_BYTES"


def resolve_path(where: str | os.PathLike[str]) -> Path:
    """Return the local path of a saved adapter, a folder or a file; download it if `where` is a Hub reference.

    Args:
        where: a local folder or file, or a Hub reference `owner/name`, `owner/name@revision`, `owner/name/folder`.

    Raises:
        AdapterError: there is no such folder, or no adapter in the repository.
        HubError: the Hub refused or could not be reached.
    """
    folder = Path(where).expanduser()
    if folder.is_dir():
        check_folder(folder, AdapterError)
        return folder
    if folder.is_file():
        return folder
    reference = parse(os.fspath(where))
    if reference is None:
        raise AdapterError(
            f"lora={os.fspath(where)!r}: expected a folder that exists, or a Hub repository written owner/name, "
            "owner/name@revision or owner/name/folder"
        )
    return download(reference)


def fetch_place(reference: Reference) -> tuple[Path, bool]:
    """Download what a reference points to; return its folder in the cache, and whether it is an adapter (else a model).

    Raises:
        AdapterError: it is neither, and the repository has adapters elsewhere.
        HubError: the Hub refused or could not be reached.
    """
    commit = listing.resolve(reference.repository, reference.revision)
    names = {PurePosixPath(name).name for name in commit.files if _is_in(name, reference.folder)}
    if looks_like_adapter(names):
        return download(reference, commit), True
    if reference.folder or (not names & {*MODEL_CONFIGS} and adapter_folders(commit)):
        raise AdapterError(no_adapter(commit, reference))
    return snapshot(reference.repository, commit=commit), False


def reference_of(name: str, revision: str | None) -> Reference:
    """Return the Hub reference that a model's name is, at `revision` if one is given.

    Raises:
        UnknownNameError: the name has not the form of one, or has a revision already.
    """
    reference = parse(name)
    if reference is None:
        raise UnknownNameError(
            f"{name!r}: expected a folder that exists, or a Hub repository written owner/name or owner/name@revision"
        )
    if revision is not None and reference.revision not in (None, revision):
        raise UnknownNameError(f"{name!r} has a revision, and revision {revision!r} was given too: leave one out")
    return replace(reference, revision=reference.revision or revision)


def is_adapter(name: str, revision: str | None = None) -> bool:
    """Return whether a local folder or a Hub reference holds a saved adapter, without downloading its files."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return is_adapter_folder(folder)
    reference = reference_of(name, revision)
    commit = listing.resolve(reference.repository, reference.revision)
    return looks_like_adapter({PurePosixPath(file).name for file in commit.files if _is_in(file, reference.folder)})


def is_adapter_folder(folder: Path) -> bool:
    """Return whether a local folder holds a saved adapter."""
    return looks_like_adapter([path.name for path in folder.iterdir()])


def looks_like_adapter(names: Collection[str]) -> bool:
    """Return whether a folder with files of these names holds an adapter, and not a model with one beside it."""
    return not _is_model(names) and any(
        name in names for name in (ADAPTER_CONFIG, MANIFEST, ADAPTER_TENSORS, DIFFUSERS_TENSORS, *PICKLES)
    )


def download(reference: Reference, commit: Commit | None = None) -> Path:
    """Download an adapter's files, and nothing else; return their folder in the cache.

    All files come from one commit. Their sizes are checked before they are downloaded, and their content afterwards,
    against the Hub's digests and those in `zoo.json`.

    Args:
        reference: the adapter's place in the Hub.
        commit: the commit that `reference.revision` was resolved to already.

    Raises:
        AdapterError: there is no adapter, or only elsewhere in the repository, or a file is too large.
        HubError: the Hub refused or could not be reached, or a file arrived damaged twice.
    """
    commit = commit or listing.resolve(reference.repository, reference.revision)
    names = adapter_files(commit, reference.folder)
    if not names:
        raise AdapterError(no_adapter(commit, reference))
    _check_sizes(commit, names)
    root = fetch(commit, names)
    folder = root / reference.folder
    _check_digests(commit, folder, names, root)
    return folder


def adapter_files(commit: Commit, folder: str = "") -> list[str]:
    """Return the files of the adapter in a folder of the repository; none if there is no adapter.

    Its tensors are in a file of a customary name, or in the only safetensors file there is.
    """
    here = {PurePosixPath(name).name: name for name in commit.files if _is_in(name, folder)}
    found = [name for name in (ADAPTER_TENSORS, DIFFUSERS_TENSORS) if name in here]
    if not found:
        only = [name for name in here if name.endswith(".safetensors") and not name.startswith(".")]
        # Without a configuration a single file may be anything; LyCORIS and kohya write no configuration at all.
        found = only if len(only) == 1 and not _is_model(here) else []
    if not found:
        return []
    return [here[name] for name in (ADAPTER_CONFIG, MANIFEST, found[0]) if name in here]


def adapter_folders(commit: Commit) -> list[str]:
    """Return the folders below the root that hold an adapter."""
    above = {str(PurePosixPath(name).parent) for name in commit.files if PurePosixPath(name).name == ADAPTER_CONFIG}
    return sorted(folder for folder in above if folder != "." and adapter_files(commit, folder))


def no_adapter(commit: Commit, reference: Reference) -> str:
    """Return the error message for a place without an adapter: why, and what could be loaded instead."""
    place = f"{commit}" + (f" in {reference.folder}" if reference.folder else "")
    at = f"@{reference.revision}" if reference.revision else ""
    folders = adapter_folders(commit)
    if folders:
        first = folders[0]
        shown = f"{', '.join(folders[:8])}{', …' if len(folders) > 8 else ''}"
        example = f'lora={{"{PurePosixPath(first).name}": "{reference.repository}/{first}{at}"}}'
        return f"{place}: no adapter here, but in its folders {shown}; name one, e.g. {example}"
    pickled = [name for name in commit.files if _is_in(name, reference.folder) and name.endswith(PICKLES)]
    if pickled:
        return (
            f"{place}: its adapter is a pickle, {pickled[0]}, which zoo does not execute; save it as {ADAPTER_TENSORS}"
        )
    return f"{place}: no adapter, expected {ADAPTER_CONFIG} and {ADAPTER_TENSORS}, or one safetensors file"


def limit() -> int:
    """Return how many bytes of tensors an adapter may have; a larger one is not downloaded.

    Raises:
        HubError: the environment variable is no number.
    """
    text = os.environ.get(LIMIT_VARIABLE, "")
    if not text:
        return TENSOR_LIMIT
    if not text.isdecimal():
        raise HubError(f"{LIMIT_VARIABLE}={text!r}: expected a number of bytes")
    return int(text)


def _check_sizes(commit: Commit, names: list[str]) -> None:
    for name in names:
        tensors = name.endswith(".safetensors")
        most = limit() if tensors else JSON_LIMIT
        if commit.files[name].size > most:
            more = f"; set {LIMIT_VARIABLE} to allow more" if tensors else ""
            raise AdapterError(
                f"{commit}: {name} has {commit.files[name].size:,} bytes, expected at most {most:,}{more}"
            )


def _check_digests(commit: Commit, folder: Path, names: list[str], root: Path) -> None:
    """Compare the files with the digests in `zoo.json`; if one differs, remove all of them from the cache."""
    from zoo.formats import manifest
    from zoo.storage import atomic

    try:
        content = manifest.read(folder)
    except AdapterError as error:
        raise AdapterError(f"{commit}: {str(error).removeprefix(str(folder) + os.sep)}") from error
    for name in names if content is not None else ():
        short = PurePosixPath(name).name
        if short == MANIFEST:
            continue
        if atomic.digest(root / name) != content["sha256"].get(short):  # type: ignore[index]
            for each in names:
                discard(root / each)
            raise HubError(
                f"{commit}: {name} is not the file whose sha256 is in {MANIFEST}: it was changed after it was saved, "
                "or one of the two was; nothing is kept: ask its author, or load an earlier revision"
            )


def _is_in(name: str, folder: str) -> bool:
    return str(PurePosixPath(name).parent) == (folder or ".")


def _is_model(names: Collection[str]) -> bool:
    """Return whether a folder holds a whole model: weights under a customary name, or a pipeline."""
    ends = ("safetensors", "safetensors.index.json", "bin", "bin.index.json")
    return PIPELINE in names or any(f"{name}.{end}" in names for name in MODEL_WEIGHTS for end in ends)
