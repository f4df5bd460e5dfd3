"""The manifests of a run: JSON files that say what it is of, with the sha256 of the files beside them and their own.

`<out>/tuning.json` says what the run depends on, each checkpoint's `state.json` the same and how far it is. A manifest
that was changed, by a bit or by hand, is found by its digest, and the files beside it by theirs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.bounded.json_text import parse_object
from zoo.bounded.text import read_text
from zoo.errors import CheckpointError, one_line
from zoo.storage import atomic

FORMAT = 2  # 1 had no digests, and nothing of the model
DIGEST = "digest"
FILES = "sha256"
_LIMIT = 1 << 28  # bytes: about 20 for each step


def write(path: Path, content: Mapping[str, Any], files: tuple[str, ...] = ()) -> None:
    """Write a manifest, with the digests of `files` beside it.

    Raises:
        OutputError: it cannot be written.
    """
    digests = {name: atomic.digest(path.with_name(name)) for name in files}
    atomic.write_bytes(path, _sealed({"format": FORMAT, **content, FILES: digests}))


def read(path: Path) -> dict[str, Any]:
    """Return a manifest, verified with the files that it names; one of format 1 has nothing to verify.

    Raises:
        CheckpointError: it or one of the files is missing or damaged, or it is of a newer format.
    """
    try:
        text = read_text(path, limit=_LIMIT, error=CheckpointError)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.name}: {error.strerror}") from error
    content = parse_object(text, path.name, values=_LIMIT, strict=True)
    form = content.get("format", 1)
    if form not in (1, FORMAT) or isinstance(form, bool):
        raise CheckpointError(f"{path.name}: expected format 1 or {FORMAT}, got {form!r:.40}: a newer zoo may know it")
    if form == 1 and DIGEST not in content:
        return content
    content.pop(DIGEST, None)
    if _sealed(content) != text.encode():
        raise CheckpointError(f"{path.name} is damaged or was changed: its content is not what its digest says")
    for name, expected in content[FILES].items():
        try:
            found = atomic.digest(path.with_name(name))
        except OSError as error:
            raise CheckpointError(f"{name} is missing ({one_line(error.strerror or error)})") from error
        if found != expected:
            raise CheckpointError(f"{name} is damaged or was changed: its sha256 is not the one in {path.name}")
    return content


def is_old(content: Mapping[str, Any]) -> bool:
    """Return whether a manifest is of the format that has nothing to verify."""
    return content.get("format", 1) == 1


def _sealed(content: Mapping[str, Any]) -> bytes:
    """Return the file's bytes: indented JSON, whose last entry is the digest of all before it."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False).encode()
    digest = hashlib.sha256(text).hexdigest()
    return text.removesuffix(b"\n}") + f',\n  "{DIGEST}": "{digest}"\n}}\n'.encode()
