"""docs/hub.md and docs/shipping.md, followed from the first block to the last one."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from zoo.cli import main

from .server import Hub

DOCS = Path(__file__).parents[2] / "docs"
STEPS = re.compile(r"\b(steps[= ])\d+")


def follow(page: Path) -> int:
    """Run the blocks of Python and of commands of a page, and return how many there are."""
    ran = 0
    for kind, text in re.findall(
        r"^```(python|sh)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    ):
        text = STEPS.sub(r"\g<1>1", text)
        if kind == "python":
            exec(compile(text, str(page), "exec"), {"__name__": "__main__"})
        else:
            for line in text.splitlines():
                assert main(shlex.split(line)[1:]) == 0, line
        ran += 1
    return ran


def test_the_page_works(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert follow(DOCS / "hub.md") == 5
    assert {name: len(repository.log()) for name, repository in hub.repositories.items()} == {
        "me/vae-serif": 2,
        "me/vae-letters": 2,
        "me/vae-styles": 2,
    }
    assert hub.repositories["me/vae-letters"].private


@pytest.mark.slow
def test_the_page_about_shipping_works(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert follow(DOCS / "shipping.md") == 5
    assert {path.name for path in tmp_path.iterdir()} >= {
        "mine",
        "gat-4bit",
        "gat.onnx",
        "gat.pt2",
        "gat-folder",
        "mine.pt2",
    }
    assert hub.repositories.keys() == {"me/letters-gat"}
