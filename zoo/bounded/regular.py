"""Open regular files alone: a named pipe, a socket or a device under a file's name waits for ever or never ends."""

from __future__ import annotations

import errno
import io
import os
import stat
from contextlib import suppress
from pathlib import Path

from zoo.errors import ZooError

_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISDIR, "a folder"),
)


def open_regular(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Open a file to read its bytes, links followed. Use it wherever a stranger may have made the folder.

    Raises:
        OSError: it cannot be opened, or is no regular file; its `strerror` says what it is.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    descriptor = os.open(path, flags)  # O_NONBLOCK: a pipe opens at once
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, f"it is {kind_of(mode)}, expected a regular file", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def kind_of(mode: int) -> str:
    """Return what a file of this `st_mode` is, such as "a named pipe"."""
    return next((said for test, said in _KINDS if test(mode)), "no regular file")


def check_folder(folder: Path, error: type[ZooError]) -> None:
    """Check that a model's or an adapter's folder has regular files and folders alone: a library would open the others.

    Links that lead nowhere, and what is hidden, pass.

    Raises:
        ZooError: of the class `error`: it has another.
    """
    odd = _odd_one(folder, 1)
    if odd is not None:
        raise error(f"{folder}: {odd}, which would be waited for or never end: remove it")


def _odd_one(folder: Path, depth: int) -> str | None:
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):  # git has a socket of its own
                continue
            try:
                mode = entry.stat().st_mode
            except OSError:
                continue
            if stat.S_ISDIR(mode):
                found = _odd_one(Path(entry.path), depth - 1) if depth and not entry.is_symlink() else None
                if found is not None:
                    return f"{entry.name}/{found}"
            elif not stat.S_ISREG(mode):
                return f"{entry.name} is {kind_of(mode)}"
    return None
