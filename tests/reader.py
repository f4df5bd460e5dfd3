"""A reader of the documentation: an environment of their own, in which pages are followed word by word."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 550  # on a very busy machine; half a minute is usual
_NUMBER = re.compile(r"\d[\d.,]*(?:e-?\d+)?")


@dataclass(frozen=True)
class Step:
    """One thing that a page told its reader to do. what: file, sh, python, or expected, the text that a page shows."""

    page: str
    what: str
    source: str
    ok: bool
    output: str
    seconds: float


class Reader:
    """An empty virtual environment, which sees the packages that the tests run on, and zoo among them."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=SECONDS)
        self.python = folder / "bin" / "python"
        own = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
        standard = Path(sysconfig.get_path("stdlib"))
        seen = [path for path in sys.path if Path(path).is_dir() and Path(path) not in (standard, Path.cwd())]
        borrowed = [path for path in seen if "lib-dynload" not in path]
        (own / "borrowed.pth").write_text("\n".join([*borrowed, str(ROOT)]))

    def run(self, *arguments: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Python with these arguments, in `cwd`."""
        dropped = ("ZOO_", "PYTEST_", "PYTHONPATH")
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
        return subprocess.run(
            [str(self.python), *map(str, arguments)],
            cwd=cwd,
            env={**inherited, "PYTHONDONTWRITEBYTECODE": "1", **variables},
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )

    def pip(self, *arguments: str | Path, cwd: Path) -> None:
        """pip, asking no index."""
        quiet = ["--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
        done = self.run("-m", "pip", *arguments, *quiet, cwd=cwd)
        assert done.returncode == 0, done.stderr

    def follow(self, pages: dict[Path, Path], steps: int) -> list[Step]:
        """Pages, each in a folder, as `tests/follow.py` follows them, with so many steps of each training."""
        words = [word for pair in pages.items() for word in pair]
        done = self.run(Path(__file__).with_name("follow.py"), *words, cwd=ROOT, FOLLOW_STEPS=str(steps))
        assert done.returncode == 0, done.stderr
        return [Step(**step) for step in json.loads(done.stdout)]


def pattern(text: str) -> list[str]:
    """Lines without their numbers and spaces: what stays equal from machine to machine."""
    return [" ".join(_NUMBER.sub("#", line).split()) for line in text.strip().splitlines()]
