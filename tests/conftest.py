"""Plugins made on the fly: distributions with metadata and code in a temporary folder on ``sys.path``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from zoo.testing.site import Site, temporary_site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """An empty ``Site``; what was installed and imported from it is gone after the test."""
    with temporary_site(tmp_path / "site") as made:
        yield made
