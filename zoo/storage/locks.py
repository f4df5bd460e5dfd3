"""Locks between processes that the kernel releases when their holder ends, however it ends (`flock`).

Where a system or a file system has none (Windows, some network drives), nothing is locked.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from zoo.errors import OutputError, one_line

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

CAN_LOCK = fcntl is not None
LOCK = ".zoo-lock"  # in the folder that is locked; has the holder's process id
_HELD = (errno.EAGAIN, errno.EACCES)  # what `flock` says of a lock that another has
_TO_READ = 1.0  # seconds in which a new holder has written its process id


@contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Hold a folder's lock for the block; the folder is made if it is missing, and goes again if it stays empty.

    So do the folders above it that were made with it.

    Raises:
        OutputError: another process, or another thread of this one, holds it, or the folder cannot be written.
    """
    path, made = folder / LOCK, [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        descriptor = _acquired(path)
    except OSError as error:
        raise OutputError(f"cannot write the folder {folder}: {one_line(error.strerror or error)}") from error
    if descriptor is None:
        raise OutputError(
            f"{folder}: another run, of {_holder(path)}, is writing there: wait for it, stop it, or give another folder"
        )
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()  # before the lock goes: afterwards it may be the next one's
            for one in made:
                one.rmdir()
        os.close(descriptor)


def lock(descriptor: int) -> bool | None:
    """Lock an open file or folder; return whether it is ours now, None where there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in _HELD else None
    return True


def is_at(path: Path, descriptor: int) -> bool:
    """Return whether an open file or folder is the one at `path`, and not one that was there before."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except OSError:
        return False


def _acquired(path: Path) -> int | None:
    """Return the open and locked file; None if another has the lock."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # its holder has removed the folder between the two lines above
            continue
        ours = lock(descriptor)
        if ours is False:
            os.close(descriptor)
            return None
        if is_at(path, descriptor):  # else its holder has removed it between the two lines above
            os.truncate(descriptor, 0)
            os.write(descriptor, str(os.getpid()).encode())
            return descriptor
        os.close(descriptor)


def _holder(path: Path) -> str:
    """Return the process that holds the lock, in words."""
    end = time.monotonic() + _TO_READ
    while time.monotonic() < end:
        with suppress(OSError, ValueError):
            return f"process {int(path.read_text(encoding='ascii'))}"
        time.sleep(0.01)
    return "another process"
