"""Put a new folder in the place of another by one system call, and keep what only the other one has.

Linux and macOS exchange two folders at once, so that whoever opens a file there, and whoever is killed meanwhile, finds
the old files or the new ones. Elsewhere, in the folder that the process works in (which would be a removed one
afterwards), and on file systems that cannot, one file after the other is replaced.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

_FDCWD = -100  # paths are relative to the working folder
_EXCHANGE = 2  # RENAME_EXCHANGE of Linux, RENAME_SWAP of macOS


def put(staged: Path, target: Path, last: str = "") -> None:
    """Give the folder `target` the files of `staged`; its other files stay.

    Args:
        staged: a folder beside it, whose content afterwards does not matter.
        target: an existing folder.
        last: a file's name that is replaced after the others where they go one by one.

    Raises:
        OSError: the system refuses; a file has a folder's name or the other way round.
    """
    own = files_of(staged)
    _check_kinds(staged, target)
    if _is_in_use(target) or not _keep_others(target, staged) or not _exchanged(staged, target):
        _move(staged, target, last)
        return
    for name in files_of(staged) - own:  # what came while the others were noted
        late, place = staged / name, target / name
        if not os.path.lexists(place) or late.lstat().st_ino != place.lstat().st_ino:
            place.parent.mkdir(parents=True, exist_ok=True)
            late.replace(place)


def files_of(folder: Path) -> set[str]:
    """Return the paths of all files below a folder, links included."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()}


def _check_kinds(staged: Path, target: Path) -> None:
    for path in staged.rglob("*"):
        place = target / path.relative_to(staged)
        if path.is_dir() and place.exists() and not place.is_dir():
            raise NotADirectoryError(None, f"{place.name} there is a file, and a folder was to be written")
        if not path.is_dir() and place.is_dir() and not place.is_symlink():
            raise IsADirectoryError(None, f"{place.name} there is a folder, and a file was to be written")


def _is_in_use(folder: Path) -> bool:
    """Return whether the process works in the folder, or something is mounted there."""
    with suppress(OSError):
        return Path.cwd().is_relative_to(folder) or os.path.ismount(folder)
    return True


def _keep_others(source: Path, copy: Path) -> bool:
    """Give `copy` what only `source` has: folders made again, files as second names; return whether all could be."""
    try:
        shutil.copymode(source, copy)
        with os.scandir(source) as entries:
            for entry in entries:
                place = copy / entry.name
                if entry.is_dir(follow_symlinks=False):
                    place.mkdir(exist_ok=True)
                    if not _keep_others(Path(entry.path), place):
                        return False
                elif not os.path.lexists(place):
                    os.link(entry.path, place, follow_symlinks=False)
    except (OSError, NotImplementedError):
        return False
    return True


def _move(source: Path, target: Path, last: str) -> None:
    for item in sorted(source.iterdir(), key=lambda item: (item.name == last, item.name)):
        place = target / item.name
        if item.is_dir() and not item.is_symlink() and place.is_dir():
            _move(item, place, last)
        else:
            item.replace(place)


def _exchanged(first: Path, second: Path) -> bool:
    """Exchange two folders at once; return whether the system could."""
    call = _system_call()
    return call is not None and call(os.fsencode(first), os.fsencode(second)) == 0


@cache
def _system_call() -> Any:
    """Return a function of two names that exchanges what they name; None where there is none."""
    try:
        library = ctypes.CDLL(None)
        if sys.platform == "darwin":
            return lambda first, second: library.renamex_np(first, second, ctypes.c_uint(_EXCHANGE))
        rename = library.renameat2
    except (OSError, AttributeError, TypeError):
        return None
    return lambda first, second: rename(_FDCWD, first, _FDCWD, second, ctypes.c_uint(_EXCHANGE))
