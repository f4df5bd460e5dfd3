"""Import plugins in a fresh process: what an import shows of them, and what it brings in."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from zoo.catalog import discovery

# Libraries that take a tenth of a second or more to import. `zoo list` and `zoo info` must not wait for them.
HEAVY = (
    *("torch", "transformers", "diffusers", "timm", "bitsandbytes", "accelerate", "peft", "torch_geometric"),
    *("tokenizers", "safetensors", "huggingface_hub", "numpy", "scipy", "sklearn", "pandas", "PIL", "matplotlib"),
    *("torchvision", "torchaudio", "tensorflow", "jax", "keras", "datasets", "hqq", "torchao", "optimum"),
)

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

_LIST = """
import json, os, sys
sys.path[:] = {path!r}
sys.modules.update(dict.fromkeys({heavy!r}))  # None: an import fails
out = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what a plugin prints is no answer
from zoo.plugin import manager
for name in {names!r}:
    try:
        answer = manager.implemented(name), manager.observes(name)
    except (Exception, SystemExit):
        answer = (), False
    print(json.dumps(answer), file=out, flush=True)
"""
PATIENCE = 20.0  # seconds for an import that brings in nothing heavy


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


def search_path() -> list[str]:
    """Return `sys.path` as a child process needs it."""
    return [entry or str(Path.cwd()) for entry in sys.path]


def import_in_subprocess(name: str) -> Seen:
    """Import a plugin in a fresh process, call its `describe`, and return what that brought in."""
    module = discovery.claim(name).value.partition(":")[0].partition("[")[0].strip()
    code = _LOOK.format(path=search_path(), heavy=HEAVY, module=module, name=name)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode or not done.stdout:
        last = done.stderr.strip().splitlines()[-1:] or [f"the process ended with status {done.returncode}"]
        return Seen(error=last[0])
    imported, with_facts, printed = json.loads(done.stdout.splitlines()[-1])
    return Seen(tuple(imported), tuple(with_facts), printed)


def light_hooks(names: Sequence[str]) -> dict[str, tuple[tuple[str, ...], bool]]:
    """Return the hooks of each plugin, and whether it is an observer, as an import that is quick shows them.

    The plugins are imported in a process of their own, in which nothing heavy can be imported. Those that need it, and
    those that fail, end the process or take too long, are said to have no hooks.
    """
    found: dict[str, tuple[tuple[str, ...], bool]] = dict.fromkeys(names, ((), False))
    waiting = list(names)
    while waiting:
        command = [sys.executable, "-c", _LIST.format(path=search_path(), heavy=HEAVY, names=waiting)]
        try:
            printed = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=PATIENCE).stdout
        except subprocess.TimeoutExpired as error:
            printed = error.stdout or b""
        answers = [json.loads(line) for line in printed.splitlines()]
        found |= {name: (tuple(hooks), observes) for name, (hooks, observes) in zip(waiting, answers, strict=False)}
        del waiting[: len(answers) + 1]  # the one without an answer ended the process
    return found
