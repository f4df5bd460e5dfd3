"""Plugins looked at in a process of their own: one that ends it, hangs or crashes there does not stop this one.

A child imports the plugins one after the other and, given a configuration, asks each whether it recognises it. It says
a line of JSON for each. Where a line is missing, the plugin whose turn it was is to blame, and another child goes on
with those after it.
"""

from __future__ import annotations

import copy
import json
import os
import queue
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from zoo.bounded.json_text import json_value
from zoo.errors import ZooError
from zoo.plugin import manager
from zoo.plugin.hookspecs import FALLBACK

# Libraries that take a tenth of a second or more to import. `zoo list` and `zoo info` must not wait for them.
HEAVY = (
    *("torch", "transformers", "diffusers", "timm", "bitsandbytes", "accelerate", "peft", "torch_geometric"),
    *("tokenizers", "safetensors", "huggingface_hub", "numpy", "scipy", "sklearn", "pandas", "PIL", "matplotlib"),
    *("torchvision", "torchaudio", "tensorflow", "jax", "keras", "datasets", "hqq", "torchao", "optimum"),
)
# Configurations of no model at all: a plugin that says yes to one of them does so to everything. Nothing that libraries
# write is in the first two, which no plugin needs a library to tell.
NONSENSE: tuple[dict[str, Any], ...] = (
    {},
    {"none-at-all": [1.5, None, "none"]},
    {"model_type": "none-at-all", "_class_name": "NoneAtAll", "architectures": ["NoneAtAll"]},
)
START, LIGHT, FULL = 60.0, 10.0, 60.0  # seconds for Python to start; for one plugin without, and with, what is heavy
_CODE = "import sys; sys.path[:] = {path!r}; from zoo.plugin.child import main; main()"


class Seen(NamedTuple):
    """What a child saw of a plugin.

    Attributes:
        hooks: those that it implements.
        observes: whether it is an observer.
        reason: why it cannot be used; "": it can.
        heavy: whether it failed where it needs a library that could not be imported there.
        refused: whether it cannot be loaded, and that is what `reason` says.
    """

    hooks: tuple[str, ...] = ()
    observes: bool = False
    reason: str = ""
    heavy: bool = False
    refused: bool = False


def search_path() -> list[str]:
    """Return `sys.path` as a child process needs it."""
    return [entry or str(Path.cwd()) for entry in sys.path]


def look(names: Sequence[str], config: dict[str, Any] | None = None, *, light: bool) -> dict[str, Seen]:
    """Return what children see of plugins; of none where no child can be started.

    Args:
        names: the plugins.
        config: what they are asked to recognise, besides nonsense; None: they are only imported.
        light: whether nothing heavy can be imported, which takes a tenth of the time.
    """
    found: dict[str, Seen] = {}
    waiting = list(names)
    while waiting:
        with _child({"names": waiting, "config": config, "blocked": HEAVY if light else ()}) as (process, lines):
            if _next(lines, START) is None:
                return found
            while waiting:
                name, line = waiting.pop(0), _next(lines, LIGHT if light else FULL)
                if line is None:
                    found[name] = Seen(reason=_end(process, LIGHT if light else FULL))
                    break
                try:
                    hooks, observes, reason, heavy, refused = json_value(line.decode())
                    found[name] = Seen(tuple(hooks), bool(observes), str(reason), bool(heavy), bool(refused))
                except (ValueError, TypeError):
                    found[name] = Seen(reason="it wrote where zoo's own answers go")
                    break
    return found


@contextmanager
def _child(job: dict[str, Any]) -> Iterator[tuple[subprocess.Popen[bytes], queue.SimpleQueue[bytes | None]]]:
    """Start a child and give it with the lines that it says, None at their end; it and its own children end here."""
    lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    environment = {name: text for name, text in os.environ.items() if name not in ("ZOO_STRICT", "ZOO_OBSERVE")}
    quiet = subprocess.DEVNULL
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", _CODE.format(path=search_path())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=quiet,
            env=environment,
            start_new_session=True,
        )
    except OSError:
        lines.put(None)
        yield None, lines  # type: ignore[misc]
        return
    assert process.stdin is not None
    assert process.stdout is not None
    said = process.stdout

    def hear() -> None:
        with said:
            for line in said:
                lines.put(line)
        lines.put(None)

    threading.Thread(target=hear, daemon=True).start()
    try:
        with suppress(OSError):
            process.stdin.write(json.dumps(job, default=str).encode())
        with suppress(OSError):
            process.stdin.close()
        yield process, lines
    finally:
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL) if hasattr(os, "killpg") else process.kill()
        process.wait()


def _next(lines: queue.SimpleQueue[bytes | None], seconds: float) -> bytes | None:
    try:
        return lines.get(timeout=seconds)
    except queue.Empty:
        return None


def _end(process: subprocess.Popen[bytes], seconds: float) -> str:
    try:
        status = process.wait(0.5)
    except subprocess.TimeoutExpired:
        return f"it took more than {seconds:.0f} seconds to import or to answer"
    return f"it ended the process, with {f'signal {-status}' if status < 0 else f'status {status}'}"


def said_of(error: BaseException) -> str:
    """Return an exception in one line, whatever it is."""
    try:
        return manager.one_line(error)
    except BaseException:  # of a stranger's __str__
        return type(error).__name__


# What runs in the child


def main() -> None:
    """Look at the plugins that the job on stdin names, and say a line for each."""
    job = json_value(sys.stdin.read())
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a plugin prints is no answer
    sys.modules.update(dict.fromkeys(job["blocked"]))  # None: an import fails
    print("ready", file=out, flush=True)
    folder, environment = Path.cwd(), dict(os.environ)
    for name in job["names"]:
        print(json.dumps(_seen(name, job["config"], set(job["blocked"]))), file=out, flush=True)
        os.chdir(folder)  # the next one is not to blame
        _set_environment(environment)
        if (torch := sys.modules.get("torch")) is not None:
            torch.set_default_dtype(torch.float32)
    os._exit(0)  # whatever a plugin has left to run at the end


def _seen(name: str, config: dict[str, Any] | None, blocked: set[str]) -> Seen:
    before = _settings()
    try:
        hooks, observes = manager.implemented(name), manager.observes(name)
    except BaseException as error:
        return Seen(reason=said_of(error), heavy=_is_blocked(error, blocked), refused=isinstance(error, ZooError))
    changed = _changed(before, _settings())
    if changed:
        return Seen(hooks, observes, f"importing it changes {changed}")
    if config is None or observes or "recognises" not in hooks:
        return Seen(hooks, observes)
    for asked in (*NONSENSE, config):
        try:
            reason = _asked(name, asked)
        except BaseException as error:
            if _is_blocked(error, blocked) and asked not in NONSENSE[:2]:
                continue  # it went as far as it can without what is heavy
            raised = "" if isinstance(error, ZooError) else "its hook 'recognises' raised "
            return Seen(hooks, observes, raised + said_of(error), _is_blocked(error, blocked))
        if reason:
            return Seen(hooks, observes, reason)
    return Seen(hooks, observes)


def _asked(name: str, config: dict[str, Any]) -> str:
    """Return what is wrong with a plugin's answer, or with what it does besides; "": nothing."""
    call = manager.caller("recognises", name)
    environment = dict(os.environ)
    for _ in range(2):  # the first call may import what the plugin needs
        _set_environment(environment)
        random.random()  # what sets a seed, or a variable, does so again
        if (torch := sys.modules.get("torch")) is not None:
            torch.rand(1)
        given, before, heavy = copy.deepcopy(config), _state(), _imported()
        answer = call(config=given)
        reason = wrong_answer(answer)
        if reason:
            return reason
        if answer and config in (NONSENSE if answer is True else NONSENSE[:2]):
            return f"it says {answer!r} to every configuration"
        after = _state()
        compared = after if heavy == _imported() else _settings()  # libraries set environment variables when imported
        changed = _changed(before, compared)
        if changed:
            return f"its hook 'recognises' changes {changed}"
    return ""


def _set_environment(environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)


def wrong_answer(answer: object) -> str:
    """Return what is wrong with an answer of the hook `recognises`; "": nothing."""
    if answer is None or isinstance(answer, bool) or (type(answer) is str and answer == FALLBACK):
        return ""
    return f"its hook 'recognises' returned {type(answer).__name__}, expected True, False, None or {FALLBACK!r}"


def _settings() -> dict[str, Any]:
    """Return what no import of a library changes."""
    torch = sys.modules.get("torch")
    try:
        folder = str(Path.cwd())
    except OSError:
        folder = ""
    dtype = str(torch.get_default_dtype()) if torch is not None else "torch.float32"
    return {"the current folder": folder, "torch's default dtype": dtype}


def _state() -> dict[str, Any]:
    """Return what a question must not change."""
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    generators = [random.getstate()]
    if torch is not None:
        generators.append(tuple(torch.get_rng_state().tolist()))
    if numpy is not None:
        generators.append(tuple(map(str, numpy.random.get_state())))
    return {**_settings(), "the environment": dict(os.environ), "a global random state": generators}


def _changed(before: dict[str, Any], after: dict[str, Any]) -> str:
    return next((what for what, value in after.items() if before[what] != value), "")


def _imported() -> set[str]:
    return {name for name in HEAVY if sys.modules.get(name) is not None}


def _is_blocked(error: BaseException | None, blocked: set[str]) -> bool:
    while error is not None:
        if isinstance(error, ImportError) and str(error.name).partition(".")[0] in blocked:
            return True
        error = error.__cause__ or error.__context__
    return False
