"""The plugins of `examples/plugins`, each installed by pip into a folder of its own, as a stranger's would be."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 240  # for one example's tests on a busy machine

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Installs an example, once, and gives the folder that is to be on PYTHONPATH."""
    made: dict[Path, Path] = {}

    def install(example: Path) -> Path:
        if example not in made:
            folder = tmp_path_factory.mktemp(example.name)
            # From a copy: whatever a build leaves behind is not left in the checkout.
            source = shutil.copytree(example, folder / "source", ignore=shutil.ignore_patterns("__pycache__", ".*"))
            flags = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
            site = folder / "site"
            command = [sys.executable, "-m", "pip", "install", *flags, "--target", str(site), str(source)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
            assert done.returncode == 0, done.stderr
            made[example] = site
        return made[example]

    return install


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs Python in an empty folder, with nothing of the checkout but what is installed and these folders."""

    def started(
        arguments: list[str], sites: list[Path], variables: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        empty = tmp_path / "empty"
        empty.mkdir(exist_ok=True)
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("ZOO_", "PYTEST_"))}
        # A killed build of an extension (PEFT's BOFT) leaves a lock behind, for which the next one waits forever.
        inherited["TORCH_EXTENSIONS_DIR"] = str(tmp_path / "extensions")
        path = os.pathsep.join(map(str, sites))
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=empty,
            env={**inherited, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **(variables or {})},
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )

    return started
