"""Plugins made on the fly: distributions with metadata and code in a temporary folder on ``sys.path``."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from zoo import host, registry


class Site:
    """A folder on ``sys.path`` in which ``install`` puts distributions as pip would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def install(
        self,
        distribution: str,
        points: Mapping[str, str] | str,
        files: Mapping[str, str] | None = None,
        version: str = "1.0",
    ) -> None:
        """``points``: plugin name → module, or the whole entry_points.txt; ``files``: path → text."""
        info = self.folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        if not isinstance(points, str):
            points = "[zoo]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
        (info / "entry_points.txt").write_text(points)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        for name, text in (files or {}).items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        self.changed()

    def changed(self) -> None:
        """Look again, as a new process would."""
        import importlib

        importlib.invalidate_caches()
        host.reset()
        registry.forget()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """An empty ``Site``; what was installed and imported from it is gone after the test."""
    monkeypatch.delenv("ZOO_STRICT", raising=False)
    monkeypatch.delenv("ZOO_PLUGINS", raising=False)
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    made = Site(folder)
    made.changed()
    yield made
    for name, module in list(sys.modules.items()):
        origin = getattr(module, "__file__", None)
        if origin and Path(origin).is_relative_to(folder):
            del sys.modules[name]
    monkeypatch.undo()
    made.changed()
