"""Follows a page of documentation in a folder, word by word, as a reader would; a script of its own process.

    python follow.py PAGE FOLDER [PAGE FOLDER ...]

Blocks of a page, in their order: one with a `title="path"` is that file (`append`: its end); `sh` are commands;
`python` is typed in; `text` is what the block before it prints. Prints a JSON list of what was done: page, what,
source, ok, output and seconds of each. Numbers of training steps are lowered, `pip` installs what is there and asks
no index, and all but `pip` runs in this process, so that torch is imported once.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
TITLE = re.compile(r'title="([^"]+)"')
STEPS = re.compile(r"\b(steps(?:=| = | ))\d+")
PIP = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]


class Block(NamedTuple):
    """A fenced block: its language, the file that it is to become, if any, whether it is added to it, and its text."""

    language: str
    title: str | None
    append: bool
    text: str


def blocks(page: Path) -> list[Block]:
    return [
        Block(language, title[1] if (title := TITLE.search(info)) else None, "append" in info, text)
        for language, info, text in BLOCK.findall(page.read_text(encoding="utf-8"))
    ]


def follow(page: Path, steps: int) -> Iterator[dict[str, object]]:
    """What each block of the page does in the current folder."""
    for block in blocks(page):
        text = STEPS.sub(rf"\g<1>{steps}", block.text)
        if block.title:
            path = Path(block.title)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text((path.read_text() if block.append else "") + text)
            forget()
            yield {"what": "file", "source": block.title, "ok": True, "output": text, "seconds": 0.0}
        elif block.language == "python":
            yield timed("python", text, lambda text=text: typed(text))
        elif block.language == "sh":
            for line in text.replace("\\\n", " ").splitlines():
                if line := line.split("  #")[0].strip():
                    yield timed("sh", line, lambda line=line: command(shlex.split(line)))
        elif block.language == "text":
            yield {"what": "expected", "source": block.text, "ok": True, "output": block.text, "seconds": 0.0}


def timed(what: str, source: str, run: Callable[[], int | None]) -> dict[str, object]:
    began, output = time.perf_counter(), io.StringIO()
    code: int | str | None
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(io.StringIO()) as errors:
        try:
            code = run()
        except SystemExit as stop:
            code = stop.code
        except BaseException:
            code = traceback.format_exc()
    told = output.getvalue() if not code else f"{output.getvalue()}{errors.getvalue()}{code}"
    return {
        "what": what,
        "source": source,
        "ok": not code,
        "output": told,
        "seconds": round(time.perf_counter() - began, 2),
    }


def typed(text: str) -> None:
    exec(compile(text, "block", "exec"), {"__name__": "__main__"})


def command(words: list[str]) -> int | None:
    """One command; the exit code."""
    program, *arguments = words
    if program == "zoo":
        from zoo.cli import main

        return main(arguments)
    if program == "python":
        runpy.run_path(arguments[0], run_name="__main__")
        return 0
    if program == "pytest":
        import pytest

        return int(pytest.main(["-p", "no:cacheprovider", *arguments]))
    if program == "pip":
        return pip(arguments)
    raise ValueError(f"the page has a command that nobody runs: {shlex.join(words)}")


def pip(arguments: list[str]) -> int:
    """pip, without dependencies. An editable install becomes a plain one: the sources come first on the path here."""
    words = [word.partition("[")[0] if word.endswith("]") else word for word in arguments if word != "-e"]
    done = subprocess.run([sys.executable, "-m", "pip", words[0], *PIP, *words[1:]], capture_output=True, text=True)
    print(done.stdout + done.stderr, end="")
    forget()
    return done.returncode


def forget() -> None:
    """See what was written or installed, as a new process would."""
    here = {path.stem for path in Path.cwd().iterdir()}
    for name in list(sys.modules):
        if name.partition(".")[0] in here:
            del sys.modules[name]
    importlib.invalidate_caches()
    if "zoo" in sys.modules:
        from zoo.catalog import registry
        from zoo.plugin import hooks

        hooks.reset()
        registry.forget()


def main(words: list[str]) -> list[dict[str, object]]:
    done: list[dict[str, object]] = []
    steps = int(os.environ.get("FOLLOW_STEPS", "2"))
    for page, folder in zip(words[::2], words[1::2], strict=True):
        os.chdir(folder)
        sys.path[0] = str(Path.cwd())
        forget()
        done += [{"page": page, **step} for step in follow(Path(page), steps)]
    return done


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        steps_done = main([str(Path(word).resolve()) for word in sys.argv[1:]])
    print(json.dumps(steps_done))
