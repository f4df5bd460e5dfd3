"""The digests of a model's files: `SHA256SUMS` beside them."""

from __future__ import annotations

import re
from pathlib import Path

from zoo.errors import CheckpointError

SUMS_LIMIT = 1 << 20  # bytes
SUMS = "SHA256SUMS"  # in the format of sha256sum; listed files are verified before they are read


def verify(folder: Path, files: list[Path]) -> None:
    """Compare `files` with the folder's SHA256SUMS, if it has one.

    Raises:
        CheckpointError: a file differs or is not listed; the message names it.
    """
    sums = folder / SUMS
    if not sums.is_file():
        return
    expected = _listed(sums)
    for path in files:
        if path.name not in expected:
            raise CheckpointError(f"{sums}: does not list {path.name}; remove one of them, or list it with sha256sum")
        _compare(path, expected[path.name])


def verify_companions(folder: Path) -> None:
    """Compare the files beside the weights (configurations, tokenizers) with the folder's SHA256SUMS, if it lists them.

    Raises:
        CheckpointError: one differs; the message names it.
    """
    sums = folder / SUMS
    for name, expected in _listed(sums).items() if sums.is_file() else ():
        path = folder / name
        if path.suffix in (".json", ".txt", ".model") and path.name == name and path.is_file():
            _compare(path, expected)


def _listed(sums: Path) -> dict[str, str]:
    if sums.stat().st_size > SUMS_LIMIT:
        raise CheckpointError(f"{sums}: longer than {SUMS_LIMIT:,} bytes, which no list of a model's files is")
    expected = {}
    for line in sums.read_text(encoding="utf-8", errors="replace").splitlines():
        match = re.fullmatch(r"([0-9a-f]{64}) [ *](\S.*)", line)
        if match is None:
            raise CheckpointError(f"{sums}: expected lines as sha256sum writes them, got {line!r:.80}")
        expected[match[2]] = match[1]
    return expected


def _compare(path: Path, expected: str) -> None:
    from zoo.storage.atomic import digest

    if digest(path) != expected:
        raise CheckpointError(
            f"{path}: damaged, its sha256 is not the one in {SUMS}; get the file again, or list it anew with sha256sum "
            "if you changed it"
        )
