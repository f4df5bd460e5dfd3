"""Open regular files alone: a named pipe, a socket or a device under a file's name waits for ever or never ends.

Imports nothing of zoo.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path

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
    """Return what a file of this `st_mode` is: "a named pipe", …"""
    return next((said for test, said in _KINDS if test(mode)), "no regular file")


def odd_one(folder: Path, depth: int = 1) -> str | None:
    """Return what lies in a folder and is neither a regular file nor a folder, and what it is; None if nothing is.

    A library that is given the folder would open it. Links that lead nowhere are none.

    Args:
        folder: the folder.
        depth: how many levels of folders below it are looked at.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                mode = entry.stat().st_mode
            except OSError:
                continue
            path = Path(entry.path)
            if stat.S_ISDIR(mode):
                found = odd_one(path, depth - 1) if depth and not entry.is_symlink() else None
                if found is not None:
                    return f"{path.name}/{found}"
            elif not stat.S_ISREG(mode):
                return f"{path.name} is {kind_of(mode)}"
    return None
