"""Every code block and command in the documentation runs, with fewer steps and samples than it says."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from zoo.cli import main

from .hub.client import pointed_at
from .hub.server import running

ROOT = Path(__file__).parents[1]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "plugins").glob("*/README.md")),
    ROOT / "benchmarks" / "README.md",
    # Their blocks build on each other: test_plugin_docs.py and hub/test_docs.py follow them from the first to the last.
    *sorted(set(ROOT.glob("docs/**/*.md")) - {ROOT / "docs" / "plugins.md", ROOT / "docs" / "hub.md"}),
]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Training and sampling steps, and samples where there are ten or more: a sheet of 26 takes ddpm ten seconds.
MANY = re.compile(r"(\bsteps[= ])\d+|(\bsample\(|-n )\d\d+")
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")
MAKE = re.compile(r"^([a-z][a-z -]*):", re.MULTILINE)


def name(page: Path) -> str:
    return page.relative_to(ROOT).with_suffix("").as_posix()


def fewer(text: str) -> str:
    return MANY.sub(lambda found: f"{found[1] or found[2]}2", text)


def blocks(page: Path, language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(page.read_text(encoding="utf-8")) if kind == language]


def marks(page: Path, number: int) -> list[pytest.MarkDecorator]:
    """All blocks of README.md are quick, and the first of each page in docs/; `make test` leaves the others out."""
    first = number == 0 and page.parent == ROOT / "docs"
    return [] if first or page == ROOT / "README.md" else [pytest.mark.slow]


def python_blocks() -> list[object]:
    return [
        pytest.param(text, id=f"{name(page)}-{number}", marks=marks(page, number))
        for page in PAGES
        if page.is_file()
        for number, text in enumerate(blocks(page, "python"))
    ]


def commands() -> list[object]:
    found = {}
    for page in PAGES:
        if page.is_file():
            for number, text in enumerate(blocks(page, "sh")):
                for line in text.replace("\\\n", " ").splitlines():
                    if line := line.split("  #")[0].strip():
                        found.setdefault(line, (page, number))
    return [
        pytest.param(line, id=f"{name(page)}: {line}", marks=marks(page, number))
        for line, (page, number) in found.items()
    ]


@pytest.fixture(autouse=True)
def hub(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[None]:
    """What is pushed and loaded goes to a Hub on this machine."""
    params = request.node.callspec.params
    if "me/" not in params.get("code", params.get("line", "")):
        yield
        return
    with running() as server, pointed_at(server, tmp_path / "home"):
        yield


@pytest.mark.parametrize("code", python_blocks())
def test_python_block_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(fewer(code), "README", "exec"), {"__name__": "__main__"})


def served(arguments: list[str], folder: Path) -> int:
    """The exit code of a server that is told to end once it answers."""
    command = [sys.executable, "-m", "zoo", "serve", *arguments, "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder)
    assert server.stdout is not None
    assert "http://127.0.0.1:" in server.stdout.readline()
    server.terminate()
    server.communicate(timeout=60)
    return server.returncode


@pytest.mark.parametrize("line", commands())
def test_command_runs(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`zoo` commands are run; of the others it is checked that what they name exists, for they take minutes."""
    program, *arguments = shlex.split(fewer(line))
    if program == "zoo" and arguments[0] == "serve":
        assert served(arguments[1:], tmp_path) == 0
    elif program == "zoo":
        monkeypatch.chdir(tmp_path)
        assert main(arguments) == 0
    elif program == "make":
        targets = " ".join(MAKE.findall((ROOT / "Makefile").read_text(encoding="utf-8"))).split()
        assert arguments[0] in targets
    elif program in ("python", "python3"):
        script = ROOT / arguments[0]
        assert script.is_file()
        compile(script.read_text(encoding="utf-8"), str(script), "exec")
    else:
        assert line == "pip install .", f"the documentation has a command that no test runs: {line}"
        assert (ROOT / "pyproject.toml").is_file()


@pytest.mark.parametrize("page", sorted({*PAGES, *ROOT.glob("docs/*.md"), ROOT / "examples" / "README.md"}), ids=name)
def test_links_lead_to_files_of_the_repository(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert [target for target in LINK.findall(text) if not (page.parent / target).exists()] == []
