"""Which plugin a configuration is for: every installed one is asked, and one that misbehaves stops no other.

Plugins are strangers' code that is asked about strangers' files. One is asked here only if a child process has asked it
before (`stamps.py`), then in a thread and within a limit of time; whatever goes wrong, it is passed over and named.
"""

from __future__ import annotations

import copy
import queue
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from contextvars import copy_context
from functools import partial
from typing import Any

from zoo.catalog import discovery
from zoo.errors import ZooError
from zoo.plugin import stamps
from zoo.plugin.child import said_of, wrong_answer
from zoo.plugin.hookspecs import FALLBACK
from zoo.plugin.manager import at_fault, caller, failed, implemented, observes

PATIENCE = 60.0  # seconds for one answer, for which a library may have to be imported
_Said = queue.SimpleQueue[tuple[Any, BaseException | None]]  # answers, or what was raised
_hung: set[str] = set()  # plugins whose thread is still at it


def recognise(config: dict[str, Any]) -> tuple[str, ...]:
    """Return the installed plugins that recognise a configuration; if none does, those that take it as a fallback.

    A plugin that cannot be loaded, raises, takes too long, ends the process, changes its state, answers anything else
    than its hook may, or says yes to everything, is passed over with a warning that names it.
    """
    with redirect_stdout(sys.stderr):  # what a plugin prints is no answer of a command
        able = [name for name in usable(tuple(discovery.claims()), config) if _is_able(name)]
        asked: dict[str, Callable[..., Any]] = {}
        for name in able:  # all of them are registered now: a call reaches those that are registered after it was made
            try:
                asked[name] = caller("recognises", name)  # imports what a table names, which may not be there
            except ZooError as error:
                passed_over(name, str(error))
        answers = _direct(asked, config) if discovery.strict() else _answers(asked, config)
    return tuple(name for name, answer in answers.items() if answer is True) or tuple(
        name for name, answer in answers.items() if answer == FALLBACK
    )


def usable(names: Sequence[str], config: dict[str, Any] | None = None) -> list[str]:
    """Return those of some plugins that can be used in this process; others are named in a warning.

    Args:
        names: plugins. Those that no distribution brings are this process's own.
        config: what they are to be asked about, for those that are asked for the first time.
    """
    if discovery.strict():
        return list(names)
    faults = stamps.faults([name for name in names if name in discovery.claims()], config or {})
    for name, reason in faults.items():
        passed_over(name, reason)
    return [name for name in names if name not in faults and name not in _hung]


def _is_able(name: str) -> bool:
    try:
        return not observes(name) and "recognises" in implemented(name)
    except ZooError as error:
        passed_over(name, str(error))
        return False


def passed_over(name: str, reason: str) -> None:
    """Say that a plugin is passed over; the same is said once at each place."""
    found = discovery.claims().get(name, ())
    by = f" ({found[0].distribution} {found[0].version})" if len(found) == 1 else ""
    whose = "" if reason.startswith(f"plugin {name!r}") else f"plugin {name!r}{by}: "
    warnings.warn(f"passed over: {whose}{reason}; `zoo plugins --quick` looks at it again", stacklevel=3)


def _direct(asked: dict[str, Callable[..., Any]], config: dict[str, Any]) -> dict[str, Any]:
    return {name: call(config=config) for name, call in asked.items()}


def _answers(asked: dict[str, Callable[..., Any]], config: dict[str, Any]) -> dict[str, Any]:
    """Return plugin → its answer, of those that give one. A thread asks them, and is left behind by one that hangs."""
    answers: dict[str, Any] = {}
    waiting = list(asked)
    while waiting:
        said: _Said = queue.SimpleQueue()
        left = threading.Event()
        ask = partial(_ask, [asked[name] for name in waiting], config, said, left)
        threading.Thread(target=copy_context().run, args=(ask,), daemon=True, name="zoo-recognises").start()
        while waiting:
            name = waiting.pop(0)
            try:
                answer, error = said.get(timeout=PATIENCE)
            except queue.Empty:
                left.set()
                _hung.add(name)
                passed_over(name, f"its hook 'recognises' took more than {PATIENCE:.0f} seconds")
                break
            if error is not None and at_fault(error, name) != name:
                raise failed(at_fault(error, name), "recognises", error) from error
            reason = wrong_answer(answer) if error is None else f"its hook 'recognises' raised {said_of(error)}"
            if reason:
                passed_over(name, reason)
            else:
                answers[name] = answer
    return answers


def _ask(calls: Sequence[Callable[..., Any]], config: dict[str, Any], said: _Said, left: threading.Event) -> None:
    for call in calls:
        if left.is_set():
            return
        try:
            said.put((call(config=copy.deepcopy(config)), None))
        except BaseException as error:  # the plugin's own: a user's interrupt goes to the main thread
            said.put((None, error))


def forget() -> None:
    """Ask plugins anew that hung or failed."""
    _hung.clear()
    stamps.forget()
