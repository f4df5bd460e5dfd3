"""Atomic writes of files and folders.

Everything is written under a hidden temporary name beside the target (`zoo.storage.staging`) and then takes its place,
so a full disk, an interrupt or a crash leaves what was there before. An `OSError` becomes one `OutputError`.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from zoo.errors import AdapterError, OutputError, one_line
from zoo.storage import swap
from zoo.storage.file_names import MANIFEST
from zoo.storage.staging import STAGED as STAGED
from zoo.storage.staging import staging, sweep

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
Where = str | os.PathLike[str]
_PATIENCE = 10.0  # seconds in which a folder that another process replaces again and again is read again


def write_bytes(path: Where, data: bytes) -> None:
    """Write `data` to `path`, and create its parent folders.

    Raises:
        OutputError: the system refuses, e.g. no space left; `path` is as it was.
    """
    with staged_file(path) as staged, staged.open("wb") as file:
        file.write(data)
        file.flush()
        _sync(file)


def write_text(path: Where, text: str) -> None:
    """Write `text` as UTF-8 with the line ends it has; lone surrogates are written as escapes."""
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def write_json(path: Where, value: Any) -> None:
    """Write `value` as indented JSON with a final line end.

    Raises:
        OutputError: as `write_bytes`.
        ValueError: `value` has NaN or an infinity, which JSON does not have.
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def save_tensors(path: Where, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a state dict as safetensors. Views and tensors that share memory are written as separate tensors.

    Raises:
        OutputError: as `write_bytes`.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with staged_file(path) as staged:
        if staged.exists():  # safetensors renames too
            raise OutputError(f"cannot write {path}: expected a file's name, and it is a device")
        staged.touch()
        mode = staged.stat().st_mode  # safetensors makes files that only their owner may read
        try:
            save_file(_separate(tensors), staged, metadata={"format": "pt", **(metadata or {})})
        except SafetensorError as error:  # it wraps the OSError
            raise OutputError(f"cannot write {path}: {one_line(error)}") from error
        staged.chmod(mode)
        with staged.open("rb+") as file:
            _sync(file)


@contextmanager
def staged_folder(path: Where) -> Iterator[Path]:
    """Yield a new empty folder to write into; when the block succeeds, `path` gets its files.

    Files of the same names are replaced, and others in `path` stay. All of it happens at once where the system can do
    that, see `zoo.storage.swap`. When the block raises, nothing has changed.

    Raises:
        OutputError: the system refuses, or `path` is a file.
    """
    with _staged(path) as (staged, target):
        yield staged
        _put(staged, target)


def read_whole(folder: Path, read: Callable[[], T]) -> T:
    """Return what `read` makes of the files in `folder`, all from before or all from after a change of them.

    Raises:
        AdapterError: what `read` raises although nobody changes the folder.
    """
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        with _held(folder) as inode:
            before = _version(folder)
            known = inode is None or before is None or before[0] == inode  # else it was replaced in between
            try:
                found = read()
            except (AdapterError, OSError):
                if known and _version(folder) == before:
                    raise
            else:
                if known and _version(folder) == before:
                    return found
        time.sleep(0.001)
    return read()


def digest(path: Where) -> str:
    """Return the sha256 of a file's content, in hex."""
    import hashlib

    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def staged_file(path: Where) -> Iterator[Path]:
    """Yield a temporary name beside `path`, renamed to `path` when the block succeeds and removed otherwise."""
    with _translate_errors(path):
        target = _target(path)
        if target.is_dir():
            raise OutputError(f"cannot write {path}: it is a folder, and a file's name was expected")
        if target.exists() and not target.is_file():
            yield target  # /dev/null, a pipe: a rename would destroy it
            return
        with staging(target) as folder:
            staged = folder / target.name
            yield staged
            if target.exists():
                shutil.copymode(target, staged)
            staged.replace(target)


@contextmanager
def _staged(path: Where) -> Iterator[tuple[Path, Path]]:
    """Yield a new empty folder, hidden beside `path`, and the target path; remove what is left of it at the end."""
    with _translate_errors(path):
        target = _target(path)
        if target.exists() and not target.is_dir():
            raise OutputError(f"cannot write the folder {path}: a file of that name exists")
        sweep(target.parent)
        with staging(target) as folder:
            staged = folder / "folder"
            staged.mkdir()
            yield staged, target


def _put(staged: Path, target: Path) -> None:
    if not target.is_dir() or not any(target.iterdir()):
        try:
            staged.replace(target)
            return
        except OSError:
            if not target.is_dir():  # else another writer was faster
                raise
    swap.put(staged, target, last=MANIFEST)


@contextmanager
def _held(folder: Path) -> Iterator[int | None]:
    """Yield a folder's inode, whose number no other folder gets in the block; None where folders cannot be opened."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        yield None
        return
    try:
        yield os.fstat(descriptor).st_ino
    finally:
        os.close(descriptor)


def _version(folder: Path) -> tuple[int, list[tuple[str, int, int]]] | None:
    """Return what changes when a writer puts other files into `folder`: its inode, and its entries; None without it."""
    try:
        with os.scandir(folder) as entries:
            found = [(one.name, one.inode(), one.stat(follow_symlinks=False).st_mtime_ns) for one in entries]
            return folder.stat().st_ino, sorted(found)
    except OSError:
        return None


@contextmanager
def _translate_errors(path: Where) -> Iterator[None]:
    """Raise the block's `OSError` as an `OutputError` that names `path`."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {path}: {one_line(error.strerror or error)}") from error


def _target(path: Where) -> Path:
    """Return the real path: a link stays a link, and the file it points to is written."""
    if "\0" in os.fspath(path):
        raise OutputError(f"cannot write {os.fspath(path)!r}: a name cannot hold a null character")
    return Path(os.path.realpath(path))


def _sync(file: IO[bytes]) -> None:
    """Wait until the content is on the disk, so that a crash after the rename finds it there."""
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # devices refuse
        os.fsync(file.fileno())


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous tensors of which no two share memory, as safetensors requires."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach()
        storage = tensor.untyped_storage().data_ptr()
        whole = tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        # No memory at all (an empty tensor) has no address that could be shared.
        result[name] = tensor if whole and (storage not in seen or not storage) else tensor.contiguous().clone()
        seen.add(storage)
    return result
