"""Regular expressions from files and users: what `re` says of a text, or an error once it takes too long.

`re` tries every way to split a text among repetitions, for years where they are nested, and cannot be stopped. The
engine here is that of the package `regex`, which transformers needs too: it reads the same language, with look-around,
and takes a limit of time. What the two read differently is refused, or written out for it.
"""

from __future__ import annotations

import re
import threading
import time
import warnings
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from zoo.errors import AdapterError, ZooError

LENGTH = 20_000  # characters of an expression; one that only lists names may be as long as its file
SECONDS = 0.5  # for one text
TOTAL = 2.0  # of processor time for all slow matches of late: an expression is tried with each of a model's names
_USUAL = 50e-6  # seconds of a match that is not slow
_RECOVERY = 0.1  # seconds of TOTAL that come back in a second
_REPEATS = 10_000  # of one thing, by all the repetitions around it: the engine writes them out
_EASY = 128  # characters of a text that a few simple repetitions are soon through with, in at most
_EASY_SECONDS = 1e-3
_GROUPS = 100  # within one another
_HARD = re.compile(r"\)[*+?{]|\\[1-9]|\(\?(?!:)")  # a group that is repeated, a reference, look-around
_BRACES = re.compile(r"\{(?:\d+(?:,\d*)?|,\d*)\}")
_NAMES = re.compile(r"\^?(?:[\w-]|\\[^\w\s])+(?:\|\^?(?:[\w-]|\\[^\w\s])+)*", re.ASCII)  # as re.escape writes them


class _Spent:
    """The seconds of processor time that slow matches took of late, in this process."""

    def __init__(self) -> None:
        self._lock, self._level, self._then = threading.Lock(), 0.0, 0.0

    def add(self, seconds: float) -> bool:
        """Add a match's time; return whether it was the last straw."""
        now = time.monotonic()
        with self._lock:
            self._level = max(0.0, self._level - _RECOVERY * (now - self._then)) + seconds
            self._then = now
            return self._level > TOTAL


_SPENT = _Spent()


def fullmatch(pattern: str, text: str, *, error: type[ZooError] = AdapterError) -> bool:
    """Return whether a regular expression matches all of `text`, as `re.fullmatch` says it.

    Args:
        pattern: the expression.
        text: such as a parameter's path.
        error: the class of the errors.

    Raises:
        ZooError: of the class `error`: the pattern is no regular expression, or matching takes too long.
    """
    named = _names(pattern)
    return _fullmatch(pattern, text, error) if named is None else text in named.whole or text in named.ends


def endmatch(pattern: str, path: str, *, error: type[ZooError] = AdapterError) -> bool:
    """Return whether a regular expression matches a dotted path, or what follows one of its dots, as PEFT's patterns.

    Arguments and errors are those of `fullmatch`.
    """
    named = _names(pattern)
    if named is None:
        return _fullmatch(rf"(?:.*\.)?(?:{pattern})", path, error)
    if path in named.whole or path in named.ends:
        return True
    places = [place for place, sign in enumerate(path) if sign == "."]
    return any(path[place + 1 :] in named.ends for place in places)


class _Names(NamedTuple):
    """What an expression of nothing but names matches: at the end of a path, or, after ^, a whole path."""

    ends: frozenset[str]
    whole: frozenset[str]


@lru_cache(maxsize=4096)
def _names(pattern: str) -> _Names | None:
    """Return the names that an expression lists, if it does nothing else."""
    if not _NAMES.fullmatch(pattern):
        return None
    names = [re.sub(r"\\(.)", r"\1", name) for name in pattern.split("|")]
    ends = frozenset(name for name in names if not name.startswith("^"))
    return _Names(ends, frozenset(name[1:] for name in names if name.startswith("^")))


def _fullmatch(pattern: str, text: str, error: type[ZooError]) -> bool:
    compiled = _checked(pattern, error)
    if isinstance(compiled, re.Pattern):
        if len(text) <= _EASY:
            began = time.perf_counter()
            found = compiled.fullmatch(text)
            took = min(time.perf_counter() - began, _EASY_SECONDS)  # the rest was the wait for a processor
            if took > _USUAL and _SPENT.add(took):
                raise _too_slow(pattern, error)
            return found is not None
        compiled = _unhurried(pattern)
    began = time.thread_time()
    try:
        found = compiled.fullmatch(text, timeout=SECONDS)
    except (TimeoutError, MemoryError):
        raise _too_slow(pattern, error) from None
    took = time.thread_time() - began
    if took > _USUAL and _SPENT.add(took):
        raise _too_slow(pattern, error)
    return found is not None


def is_list(pattern: str) -> bool:
    """Return whether an expression does nothing but list names, as `re.escape` writes them."""
    return _names(pattern) is not None


def check_pattern(pattern: str, what: str, *, error: type[ZooError] = AdapterError) -> None:
    """Check that a text is a regular expression, and within the bounds.

    Args:
        pattern: the text.
        what: how the error begins: what the text is for.
        error: the class of the error.

    Raises:
        ZooError: of the class `error`: it is not.
    """
    if _names(pattern) is None:
        _checked(pattern, error, f"{what}: ")


def _checked(pattern: str, error: type[ZooError], what: str = "") -> Any:
    if len(pattern) > LENGTH:
        raise error(f"{what}{pattern[:40]!r}… is a regular expression of more than {LENGTH} characters: list the names")
    compiled = _compiled(pattern)
    if isinstance(compiled, str):
        raise error(f"{what}{pattern[:200]!r} is not a regular expression that zoo matches: {compiled}")
    return compiled


def _too_slow(pattern: str, error: type[ZooError]) -> ZooError:
    return error(
        f"the regular expression {pattern[:200]!r} takes too long to match: write it without repetitions within "
        "repetitions, or list the names"
    )


@lru_cache(maxsize=64)
def _unhurried(pattern: str) -> Any:
    """Return an expression that `re` takes, for the engine with a limit of time."""
    import regex  # type: ignore[import-untyped]

    return regex.compile(_plain(pattern), regex.VERSION0, cache_pattern=False)


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> Any:
    """Return the compiled expression, of `re` where that is easy, else of `regex`; or why there is none."""
    import regex

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            why = _beyond(pattern)
            if why is None:
                own = re.compile(pattern)  # what an expression is, `re` says
                return own if _is_easy(pattern) else _unhurried(pattern)
    except (re.error, regex.error, OverflowError, RecursionError, MemoryError, ValueError, TypeError) as fault:
        why = str(fault) or type(fault).__name__
    return why


def _beyond(pattern: str) -> str | None:
    """Return why an expression would take too long to compile; None for all that anybody needs."""
    heaviest, closed = [1], 1  # repetitions of one thing within each open group, and in the group that ended just now
    for place, sign in _signs(pattern):
        if sign == "(":
            heaviest.append(1)
            if len(heaviest) > _GROUPS:
                return f"groups more than {_GROUPS} deep"
        elif sign == ")" and len(heaviest) > 1:
            closed = heaviest.pop()
            heaviest[-1] = max(heaviest[-1], closed)
        elif sign == "{" and (found := _BRACES.match(pattern, place)):
            most = max([1, *(int(number[:20]) for number in re.findall(r"\d+", found[0]))])
            most *= closed if pattern[place - 1 : place] == ")" else 1
            heaviest[-1] = max(heaviest[-1], most)
            if most > _REPEATS:
                return f"it repeats something more than {_REPEATS} times"
    return None


def _is_easy(pattern: str) -> bool:
    """Return whether an expression has so few repetitions, none within another, that `re` is soon through with it."""
    if _HARD.search(pattern):
        return False
    plain = pattern.replace("(?:", "(")
    return sum(map(plain.count, "*+{")) <= 2 and plain.count("?") <= 3


def _signs(pattern: str) -> Iterator[tuple[int, str]]:
    """Yield (place, sign) of the signs of an expression that mean something; a set's are its brackets alone."""
    place, inside = 0, False
    while place < len(pattern):
        sign = pattern[place]
        if sign == "\\":
            place += 2
            continue
        if inside:
            inside = sign != "]"
            if sign in "[]":
                yield place, sign
        elif sign == "[":
            inside = True
            yield place, sign
            place += pattern.startswith("[^", place)
            place += pattern.startswith("]", place + 1)  # a first bracket is one of the set
        else:
            yield place, sign
        place += 1


def _plain(pattern: str) -> str:
    """Return an expression for `regex` with what means more there than in `re` written out: `{` and `[` as signs."""
    made, last, inside = [], 0, False
    for place, sign in _signs(pattern):
        if (sign == "{" and not _BRACES.match(pattern, place)) or (sign == "[" and inside):
            made += [pattern[last:place], "\\"]
            last = place
        inside = (inside or sign == "[") and sign != "]"
    return "".join([*made, pattern[last:]])
