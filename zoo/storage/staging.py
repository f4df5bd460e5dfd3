"""Hidden folders beside a target, in which a file or folder is made whole before it takes the target's place.

The process that writes one holds a lock on it (`zoo.storage.locks`). One without a holder is what a process left that
was killed, and `sweep` removes it.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from zoo.storage.locks import CAN_LOCK, is_at, lock

STAGED = ".zoo-"  # prefix of hidden names, whose content is not complete
_NAME = re.compile(r"\.zoo-[0-9a-f]{12}")  # STAGED and what makes it unique


@contextmanager
def staging(target: Path) -> Iterator[Path]:
    """Yield a new empty hidden folder beside `target`, whose parent folders are made; it is removed at the end.

    Raises:
        OSError: it cannot be made.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    folder, descriptor = _made(target.parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if descriptor is not None:
            os.close(descriptor)


def sweep(folder: Path) -> None:
    """Remove what killed processes left in `folder`: hidden names of ours whose writer is gone."""
    if not CAN_LOCK:
        return
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _NAME.fullmatch(entry.name) and not entry.is_symlink():
                with suppress(OSError):
                    _remove(Path(entry.path))


def _made(parent: Path) -> tuple[Path, int | None]:
    """Return a new hidden folder and the descriptor that holds its lock; None where folders cannot be locked."""
    while True:
        folder = parent / f"{STAGED}{uuid4().hex[:12]}"
        folder.mkdir()
        try:
            descriptor = os.open(folder, os.O_RDONLY)
        except OSError:  # Windows opens no folders; or another process has swept it already
            if folder.is_dir():
                return folder, None
            continue
        lock(descriptor)
        if is_at(folder, descriptor):
            return folder, descriptor
        os.close(descriptor)  # swept before it was locked


def _remove(path: Path) -> None:
    """Remove a leftover; nothing that has a holder or is another user's."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        if os.fstat(descriptor).st_uid != os.geteuid() or lock(descriptor) is not True or not is_at(path, descriptor):
            return
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:  # of zoo 0.2 and earlier
            path.unlink()
    finally:
        os.close(descriptor)
