"""Import plugins in a fresh process: what an import shows of them, and what it brings in."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import NamedTuple

from zoo.catalog import discovery
from zoo.plugin.child import FULL, HEAVY, START, search_path

_LOOK = """
import contextlib, importlib, io, json, sys
sys.path[:] = {path!r}
heavy = lambda: [name for name in {heavy!r} if name in sys.modules]
with contextlib.redirect_stdout(io.StringIO()) as printed:
    importlib.import_module({module!r})
    imported = heavy()
    from zoo.catalog import registry
    from zoo.loading.resolve import resolve
    from zoo.plugin import manager
    try:
        implemented = manager.implemented({name!r})
        mine = [entry for entry in registry.entries() if entry.plugin == {name!r}]
    except Exception:
        mine = []
    for entry in mine:
        try:
            if entry.config or entry.weights == "embedded":
                entry = resolve(entry.name, download=False)
            if "describe" in implemented:
                manager.caller("describe", {name!r})(entry=entry)
        except Exception:
            pass  # another check reports it
print(json.dumps([imported, heavy(), printed.getvalue()]))
"""


class Seen(NamedTuple):
    """What a fresh process saw of a plugin.

    Attributes:
        imported: the heavy libraries that its import brought in.
        with_facts: those that are there after its `describe` too.
        printed: what it printed.
        error: the last line of the error if it could not be imported.
    """

    imported: tuple[str, ...] = ()
    with_facts: tuple[str, ...] = ()
    printed: str = ""
    error: str = ""


def import_in_subprocess(name: str) -> Seen:
    """Import a plugin in a fresh process, call its `describe`, and return what that brought in."""
    module = discovery.claim(name).value.partition(":")[0].partition("[")[0].strip()
    code = _LOOK.format(path=search_path(), heavy=HEAVY, module=module, name=name)
    command, nothing = [sys.executable, "-c", code], subprocess.DEVNULL
    try:
        done = subprocess.run(command, capture_output=True, text=True, stdin=nothing, timeout=START + FULL)
    except subprocess.TimeoutExpired:
        return Seen(error=f"it took more than {START + FULL:.0f} seconds")
    if done.returncode or not done.stdout:
        last = done.stderr.strip().splitlines()[-1:] or [f"the process ended with status {done.returncode}"]
        return Seen(error=last[0])
    imported, with_facts, printed = json.loads(done.stdout.splitlines()[-1])
    return Seen(tuple(imported), tuple(with_facts), printed)
