"""The notebooks run from their first cell to their last, and what a cell ends with can be shown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "examples" / "notebooks").glob("*.ipynb"))

# Runs the cells in one process, as a kernel does: lines with `!` are commands, a last expression is shown.
RUNNER = """
import ast, json, subprocess, sys

space = {"__name__": "__main__"}
for source in json.loads(sys.stdin.read()):
    commands = [line[1:] for line in source.splitlines() if line.startswith("!")]
    for command in commands:
        subprocess.run([sys.executable, "-m", *command.split()], check=True)
    tree = ast.parse("\\n".join(line for line in source.splitlines() if not line.startswith("!")))
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<cell>", "exec"), space)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), space)
        for form in ("_repr_png_", "_repr_html_", "__repr__"):
            shown = getattr(value, form)() if hasattr(value, form) else None
            if shown:
                print("shown:", form, len(shown))
                break
"""


def cells(path: Path, kind: str) -> list[dict]:
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    sources = ["".join(cell["source"]).replace("steps = 60", "steps = 2") for cell in cells(path, "code")]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUNNER],
        input=json.dumps(sources),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, map(str, sys.path)))},
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("shown:") >= 3


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_carries_no_outputs(path: Path) -> None:
    assert len(NOTEBOOKS) == 3
    assert cells(path, "markdown")
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells(path, "code"))
