"""Copied beside an example's tests: every code block and `zoo` command of its README.md runs, with fewer steps."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from zoo.cli import main

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
STEPS = re.compile(r"\b(steps[= ])\d+")


def blocks(language: str) -> list[str]:
    return [STEPS.sub(r"\g<1>2", text) for kind, text in BLOCK.findall(README) if kind == language]


def commands() -> list[str]:
    lines = [line for text in blocks("sh") for line in text.replace("\\\n", " ").splitlines()]
    return [line for line in (line.split("  #")[0].strip() for line in lines) if line.startswith("zoo ")]


@pytest.mark.parametrize("code", blocks("python"))
def test_python_block_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README", "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("line", commands())
def test_command_runs(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(line)[1:]) == 0
