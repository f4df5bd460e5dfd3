"""Saved adapters in Hub repositories."""

from __future__ import annotations

import os
from pathlib import Path

from zoo.errors import AdapterError
from zoo.hub.reference import parse


def locate(where: str | os.PathLike[str]) -> Path:
    """The folder of a saved adapter: a local one if it exists, else one of a Hub repository. Raises a ``ZooError``."""
    folder = Path(where).expanduser()
    if folder.is_dir():
        return folder
    reference = parse(os.fspath(where))
    if reference is None:
        raise AdapterError(
            f"lora={os.fspath(where)!r}: expected a folder that exists, or a Hub repository written owner/name, "
            "owner/name@revision or owner/name/folder"
        )
    from zoo.hub import snapshot

    return snapshot(reference.repository, reference.revision) / reference.folder
