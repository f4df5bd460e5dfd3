"""Time each call of a hook: logged as it happens, summed up on demand and at the end of the process."""

from __future__ import annotations

import atexit
import logging
from collections.abc import Generator
from threading import Lock
from time import perf_counter
from typing import Any

log = logging.getLogger("zoo_observer")  # every call at DEBUG, the summary at INFO

_seconds: dict[str, list[float]] = {}
_lock = Lock()


def timed(hook: str, subject: str) -> Generator[None, Any, Any]:
    """Pass on what the hook returns or raises, and note how long that took: the body of a wrapper.

    Args:
        hook: the hook's name.
        subject: what the call was about, for the log: an entry's or a parameter's name.
    """
    start = perf_counter()
    try:
        answer = yield
    except BaseException as error:
        _note(hook, subject, perf_counter() - start, type(error).__name__)
        raise
    _note(hook, subject, perf_counter() - start, "passed" if answer is None else type(answer).__name__)
    return answer


def seconds() -> dict[str, tuple[float, ...]]:
    """Return hook → seconds of each of its calls, in the order in which they ended."""
    with _lock:
        return {hook: tuple(times) for hook, times in _seconds.items()}


def reset() -> None:
    """Forget all that was timed."""
    with _lock:
        _seconds.clear()


def summary() -> str:
    """Return a line per hook, the slowest in all first: calls, total and mean.

    Hooks called inside others count in both.
    """
    rows = [(hook, len(times), sum(times)) for hook, times in seconds().items()]
    rows.sort(key=lambda row: -row[2])
    lines = [f"{'hook':<15}{'calls':>7}{'total s':>11}{'mean ms':>11}"]
    lines += [f"{hook:<15}{calls:>7}{total:>11.3f}{1e3 * total / calls:>11.3f}" for hook, calls, total in rows]
    return "\n".join(lines)


def _note(hook: str, subject: str, took: float, outcome: str) -> None:
    with _lock:
        if not _seconds:
            _at_first()
        _seconds.setdefault(hook, []).append(took)
    log.debug("%s(%s) → %s, %.3f ms", hook, subject, outcome, 1e3 * took)


def _at_first() -> None:
    """Show the summary on stderr if logging is not set up: who switched this on wants to see it."""
    if not log.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
    atexit.unregister(_at_exit)
    atexit.register(_at_exit)


def _at_exit() -> None:
    if _seconds:
        log.info("%s", summary())
