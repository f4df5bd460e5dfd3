"""Translate the Hub client's errors to `HubError` in one line, and decide which requests to retry.

The client's errors quote the servers' answers, and a server may quote a token: every text is scrubbed before it leaves
this module.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from zoo.errors import HubError, ZooError, one_line
from zoo.hub.limits import ANSWER, PASSING, SECONDS, SilentHubError, UnusableAnswerError, bounded

Result = TypeVar("Result")

DELAYS = (0.5, 1.0, 2.0)  # seconds before the second, third and fourth try
PATIENCE = 10.0  # the longest wait in seconds that a server's Retry-After can cause
LONGEST = 30.0  # seconds after which no further try begins
# What the client raises where an answer is no JSON, or JSON of another form.
DAMAGED = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, AssertionError)
_CLIENTS = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")
_SECRETS = (
    (re.compile(r"\bhf_[A-Za-z0-9]{16,}"), "hf_***"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"), r"\1 ***"),
    (re.compile(r"//[^/\s:@]+:[^/\s@]+@"), "//***@"),
)


def warn(message: str) -> None:
    """Log a warning for the user: on stderr, unless logging is configured otherwise."""
    logging.getLogger("zoo").warning(scrub(message))


def with_retries(
    call: Callable[[], Result],
    worth: Callable[[BaseException], bool] | None = None,
    *,
    most: int = ANSWER,
    seconds: float | None = SECONDS,
) -> Result:
    """Return what `call` returns, calling it again after a delay while its error is a temporary one.

    Args:
        call: the request.
        worth: whether an error is worth another try; default `is_passing`.
        most: bytes of one answer.
        seconds: how long one call may take; None for the transfer of a file.
    """
    begun = time.monotonic()
    for delay in DELAYS:
        try:
            return request(call, most, seconds)
        except Exception as error:
            timed = seconds is not None or isinstance(error, SilentHubError)
            if not (worth or is_passing)(error) or (timed and time.monotonic() - begun > LONGEST):
                raise
            time.sleep(max(delay, min(retry_after(error), PATIENCE)))
    return request(call, most, seconds)


def request(call: Callable[[], Result], most: int = ANSWER, seconds: float | None = SECONDS) -> Result:
    """Return what `call`, one call of the client, returns, within bounds (`zoo.hub.limits`).

    Raises:
        UnusableAnswerError: an answer exceeds them, or is not what the client expects.
    """
    try:
        with bounded(most, seconds):
            return call()
    except DAMAGED as error:
        if _from_client(error):
            raise
        raise UnusableAnswerError(
            f"the Hub's answer is damaged, or no Hub's ({type(error).__name__}: {one_line(error, 120)}); try again, "
            "and check HF_ENDPOINT and proxies"
        ) from error


def is_passing(error: BaseException) -> bool:
    """Return whether the same request may succeed a moment later: a broken connection, a busy server, half a file."""
    if (code := status(error)) is not None:
        return code in PASSING
    if is_offline(error):
        return False
    if isinstance(error, SilentHubError):
        return True
    if _is(error, "LocalEntryNotFoundError"):  # of a broken connection, which the client has retried already
        return any(status(each) in PASSING for each in _chain(error))
    return is_connection(error) or "Consistency check failed" in str(error)


def is_unreachable(error: BaseException) -> bool:
    """Return whether the Hub did not answer or failed itself, so that nothing is known about the requested object."""
    code = status(error)
    if isinstance(error, SilentHubError):
        return True
    return is_offline(error) or (code in PASSING if code is not None else is_connection(error))


def is_connection(error: BaseException) -> bool:
    """Return whether the connection broke, timed out or failed: the HTTP library's own errors."""
    return _is(error, "TransportError") and type(error).__module__.partition(".")[0] in _CLIENTS


def is_offline(error: BaseException) -> bool:
    """Return whether the client refused because HF_HUB_OFFLINE is set."""
    return _is(error, "OfflineModeIsEnabled")


def status(error: BaseException) -> int | None:
    """Return the HTTP status of a client's error, if it has one."""
    code = getattr(getattr(error, "response", None), "status_code", None)
    return code if isinstance(code, int) else None


def _is(error: BaseException, name: str) -> bool:
    """Return whether an error's class is called `name`.

    The client has had its errors in several modules, and its HTTP library under several names.
    """
    return any(kind.__name__ == name for kind in type(error).__mro__)


def retry_after(error: BaseException) -> float:
    """Return the seconds to wait that a server's answer requests; 0.0 if it requests none, or a date."""
    for each in _chain(error):
        text = getattr(getattr(each, "response", None), "headers", {}).get("Retry-After", "")
        if re.fullmatch(r"\d{1,18}", text):
            return float(text)
    return 0.0


@contextmanager
def translate_errors(where: str, *, writing: bool = False) -> Iterator[None]:
    """Raise the client's errors of the block as one `HubError` about `where`."""
    try:
        yield
    except ZooError:
        raise
    except Exception as error:
        message = _message(where, error, writing)
        if message is None:
            raise
        secret = any(scrub(str(each)) != str(each) for each in _chain(error))
        # A traceback would print the whole chain.
        raise HubError(scrub(message)) from (None if secret else error)


def _message(where: str, error: BaseException, writing: bool) -> str | None:
    """Return one line for a client's error, from the most telling one in its chain; None if it is not the client's."""
    chain = list(_chain(error))
    for each in chain:
        if isinstance(each, UnusableAnswerError):
            return f"{where}: {each}"
        if _is(each, "GatedRepoError"):
            return f"{where}: access is restricted; ask for it on its page, then `hf auth login`"
        if _is(each, "RevisionNotFoundError"):
            return f"{where}: the repository has no such revision"
        if _is(each, "RemoteEntryNotFoundError"):
            return f"{where}: a file that the repository lists is not there ({_first_line(each)}); try again"
        if _is(each, "RepositoryNotFoundError") and not writing:
            return f"{where}: no such repository, or a private one; check the name, or `hf auth login`"
        if (code := status(each)) in (401, 403, 404) and not (code == 404 and writing):
            outcome = "the Hub refused" if writing else "no access"
            needed = "a token that may write there" if writing else "an account that may read it"
            return f"{where}: {outcome} (HTTP {code}); `hf auth login` with {needed}"
        if _is(each, "HFValidationError"):
            return f"{where}: not a repository's name, expected owner/name"
    for each in chain:
        if is_offline(each):
            return (
                f"{where}: HF_HUB_OFFLINE is set and the files are not in the cache; unset it, or give a local folder"
            )
        if (code := status(each)) is not None:
            busy = "it is busy or out of order" if code in PASSING else _first_line(each)
            pause = retry_after(each)
            again = f"try again in {pause:,.0f} seconds" if PATIENCE < pause < 1e6 else "try again"
            return f"{where}: the Hub answered HTTP {code} ({busy}); {again}"
        if is_connection(each) and type(each).__name__.startswith("Connect"):
            return _unreached(where)
        if is_connection(each):
            broke = f"the connection to the Hub broke, or it does not answer ({type(each).__name__})"
            return f"{where}: {broke}; check the network and try again"
    if _is(error, "LocalEntryNotFoundError"):
        return _unreached(where)
    if isinstance(error, OSError) or _from_client(error) or writing:
        doing = "written" if writing else "read"
        return f"{where}: the Hub could not be {doing} ({_first_line(error)}); try again"
    return None


def _from_client(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] in ("huggingface_hub", *_CLIENTS)


def _unreached(where: str) -> str:
    return (
        f"{where}: the Hub could not be reached, and the cache has no copy; check the network, or give a local folder"
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__


def scrub(text: str) -> str:
    """Return `text` without the user's token, and without anything that looks like a token."""
    for token in _tokens():
        text = text.replace(token, "***")
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def _tokens() -> list[str]:
    import os

    from huggingface_hub import get_token

    found = {get_token(), os.environ.get("HF_TOKEN"), os.environ.get("HUGGING_FACE_HUB_TOKEN")}
    return sorted((token for token in found if token and len(token) >= 4), key=len, reverse=True)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
