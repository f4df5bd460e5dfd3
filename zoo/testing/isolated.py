"""Run the suite in a process of its own: whatever a plugin does there, this process goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import IO, Any, NamedTuple

from zoo.catalog.discovery import strict
from zoo.plugin import hooks
from zoo.plugin.child import search_path
from zoo.plugin.manager import HOOKS
from zoo.testing.promise import Check, Result

PATIENCE = 600.0  # seconds for one check
# Called for a check that starts: its hook, its promise, its number from 0, of how many.
OnStart = Callable[[str, str, int, int], None]

_CHILD = "import sys; sys.path[:] = {path!r}; from zoo.testing.isolated import child; child({name!r}, {device!r})"


class Examined(NamedTuple):
    """What the process found.

    Attributes:
        hooks: those that the plugin implements; None if it could not be loaded.
        observes: whether it only wraps.
        results: of the checks.
    """

    hooks: tuple[str, ...] | None
    observes: bool
    results: tuple[Result, ...]


def examine(name: str, on_start: OnStart | None = None, device: str = "cpu") -> Examined:
    """Run `zoo.testing.examine` on a plugin in a fresh process; this one does not even import it.

    If the process dies, the check that ran counts as failed. With `ZOO_STRICT=1` its traceback goes to stderr.
    """
    command = [sys.executable, "-c", _CHILD.format(path=search_path(), name=name, device=device)]
    results: list[Result] = []
    hooks, observes = None, False
    hook, promise, ended = "import", "a module that can be imported", False
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as heard:
        stderr = None if strict() else heard
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, text=True, encoding="utf-8"
        ) as process:
            assert process.stdout is not None
            for line in within(process, process.stdout, PATIENCE):
                kind, *facts = json.loads(line)
                if kind == "start":
                    hook, promise, number, total = facts
                    if on_start is not None:
                        on_start(hook, promise, number, total)
                elif kind == "result":
                    results.append(Result(**facts[0]))
                elif kind == "is":
                    hooks, observes = tuple(facts[0]), bool(facts[1])
                else:
                    ended = True
        if not ended:
            heard.seek(0)
            last = heard.read().strip().splitlines()[-1:] or ["it said nothing"]
            whose = f"plugin {name!r}, hook {hook!r}" if hook in HOOKS else f"plugin {name!r}"
            reason = (
                f"{whose}: expected {promise}; found: the process ended with status "
                f"{process.returncode} ({last[0][:200]}). Fix: run it with ZOO_STRICT=1, which shows where"
            )
            results.append(Result("survives", hook, False, promise, reason))
    return Examined(hooks, observes, tuple(results))


def within(process: subprocess.Popen[str], said: IO[str], seconds: float) -> Iterator[str]:
    """Yield what a process says, and end it where it says nothing for so many seconds."""
    while True:
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        try:
            line = said.readline()
        finally:
            timer.cancel()
        if not line:
            return
        yield line


def child(name: str, device: str = "cpu") -> None:
    """Run the suite, with a line of JSON on stdout for each check that starts and for each result."""
    from zoo.testing import run

    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a plugin prints must not mix with the results

    def tell(*facts: Any) -> None:
        out.write(json.dumps(facts) + "\n")
        out.flush()

    def start(check: Check, number: int, total: int) -> None:
        tell("start", check.hook, check.promise, number, total)

    try:
        tell("is", hooks.implemented(name), hooks.observes(name))
    except (Exception, SystemExit):
        if strict():
            raise
    run.examine(name, on_start=start, on_result=lambda result: tell("result", asdict(result)), device=device)
    tell("end")
