"""docs/hub.md, followed from its first block to its last one."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from zoo.cli import main

from .server import Hub

PAGE = Path(__file__).parents[2] / "docs" / "hub.md"
STEPS = re.compile(r"\b(steps[= ])\d+")


def test_the_page_works(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran = 0
    for kind, text in re.findall(r"^```(\w+)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        text = STEPS.sub(r"\g<1>1", text)
        if kind == "python":
            exec(compile(text, str(PAGE), "exec"), {"__name__": "__main__"})
        else:
            for line in text.splitlines():
                assert main(shlex.split(line)[1:]) == 0, line
        ran += 1
    assert ran == 5
    assert {name: len(repository.log()) for name, repository in hub.repositories.items()} == {
        "me/vae-serif": 2,
        "me/vae-letters": 2,
        "me/vae-styles": 2,
    }
    assert hub.repositories["me/vae-letters"].private
