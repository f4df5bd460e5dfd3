"""Plugins that a test writes: distributions with metadata and code in a folder that is on `sys.path` for a while."""

from __future__ import annotations

import importlib
import os
import sys
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


class Site:
    """A folder on `sys.path` in which `install` puts distributions as pip would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def install(
        self,
        distribution: str,
        points: Mapping[str, str] | str,
        files: Mapping[str, str] | None = None,
        version: str = "1.0",
    ) -> None:
        """Install a distribution.

        Args:
            distribution: its name.
            points: plugin name → module, or the whole text of entry_points.txt.
            files: path → text.
            version: its version.
        """
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
        """Read the installed distributions again, as a new process would."""
        from zoo.catalog import registry
        from zoo.plugin import hooks

        importlib.invalidate_caches()
        hooks.reset()
        registry.forget()

    def forget(self) -> None:
        """Remove every module that was imported from the folder."""
        for name, module in list(sys.modules.items()):
            origin = getattr(module, "__file__", None)
            if origin and Path(origin).is_relative_to(self.folder):
                del sys.modules[name]


@contextmanager
def temporary_site(folder: Path) -> Iterator[Site]:
    """Yield an empty `Site` in `folder`, first on `sys.path`, without `ZOO_PLUGINS` and `ZOO_STRICT`.

    What was installed in it and imported from it is removed afterwards.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, kept = str(folder), {name: os.environ.pop(name, None) for name in ("ZOO_PLUGINS", "ZOO_STRICT")}
    sys.path.insert(0, path)
    made = Site(folder)
    made.changed()
    try:
        yield made
    finally:
        made.forget()
        if path in sys.path:
            sys.path.remove(path)
        for name, value in kept.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        made.changed()
