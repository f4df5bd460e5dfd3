"""What lies below a folder, and which names of folders and files speak of a split."""

from __future__ import annotations

import re
from pathlib import Path

from zoo.bounded.regular import kind_of
from zoo.data.spec import split_name
from zoo.errors import DataError

_JUNK = ("__macosx", "thumbs.db", "desktop.ini", "__pycache__", "lost+found")


def walk(root: Path) -> tuple[list[Path], list[tuple[str, str]]]:
    """Return all files below a folder, sorted, and what is hidden there with the reason; links that go round end.

    Raises:
        DataError: a folder cannot be listed.
    """
    files: list[Path] = []
    left: list[tuple[str, str]] = []
    _walk(root, root, frozenset({root.resolve()}), files, left)
    return files, left


def is_junk(name: str) -> bool:
    """Return whether a file or folder is hidden or of an operating system's making."""
    return name.startswith(".") or name.lower() in _JUNK


def split_of(name: str) -> str | None:
    """Return the split that a folder or a file is named after as a whole, or None."""
    try:
        return split_name(name.lower())
    except DataError:
        return None


def split_within(stem: str) -> str | None:
    """Return the split that a file's name speaks of ("reviews_train", "train-00000-of-00001"), or None."""
    found = {split for part in re.split(r"[-_.\s]+", stem) if (split := split_of(part))}
    return found.pop() if len(found) == 1 else None


def _walk(root: Path, folder: Path, above: frozenset[Path], files: list[Path], left: list[tuple[str, str]]) -> None:
    try:
        children = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror or error}): let it be read") from error
    for path in children:
        name = str(path.relative_to(root))
        if is_junk(path.name):
            left.append((name, "it is hidden"))
        elif path.is_dir():
            real = path.resolve()
            if real in above:
                left.append((name, "it is a link to a folder around it"))
            else:
                _walk(root, path, above | {real}, files, left)
        elif path.is_file():
            files.append(path)
        else:
            left.append((name, _what(path)))


def _what(path: Path) -> str:
    try:
        return f"it is {kind_of(path.stat().st_mode)}"
    except OSError:
        return "it is a broken link"
