"""A Hub on this machine for every test in this folder, and a cache that the test has for itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .client import pointed_at
from .server import Hub, running


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with running() as server, pointed_at(server, tmp_path / "home"):
        yield server


@pytest.fixture
def cache(hub: Hub, tmp_path: Path) -> Path:
    """The client's cache folder."""
    return tmp_path / "home" / "hub"
