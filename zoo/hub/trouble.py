"""What goes wrong on the way to the Hub and back, told in one line, and what is worth another try.

The client's errors quote what servers say, and a server may quote a token: no text goes out of here unscrubbed.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from zoo.errors import HubError, ZooError

Result = TypeVar("Result")

DELAYS = (0.5, 1.0, 2.0)  # seconds before the second, third and fourth try
PATIENCE = 10.0  # seconds that a server may ask us to wait at most
PASSING = (408, 425, 429, 500, 502, 503, 504)
_CLIENTS = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")
_SECRETS = (
    (re.compile(r"\bhf_[A-Za-z0-9]{16,}"), "hf_***"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"), r"\1 ***"),
    (re.compile(r"//[^/\s:@]+:[^/\s@]+@"), "//***@"),
)


def say(message: str) -> None:
    """A line for the user, on stderr unless logging is set up otherwise."""
    logging.getLogger("zoo").warning(scrub(message))


def with_retries(call: Callable[[], Result], worth: Callable[[BaseException], bool] | None = None) -> Result:
    """What `call` returns, tried again after a while where its error is one that passes (`worth`)."""
    for delay in DELAYS:
        try:
            return call()
        except Exception as error:
            if not (worth or is_passing)(error):
                raise
            time.sleep(max(delay, _asked_to_wait(error)))
    return call()


def is_passing(error: BaseException) -> bool:
    """Whether the same request may succeed a moment later: a broken connection, a busy server, half a file."""
    if (code := status(error)) is not None:
        return code in PASSING
    if is_offline(error) or _is(error, "LocalEntryNotFoundError"):  # the client has tried for long already
        return False
    return is_connection(error) or "Consistency check failed" in str(error)


def is_unreachable(error: BaseException) -> bool:
    """Whether the Hub did not answer at all or has failed itself, which says nothing about what was asked for."""
    code = status(error)
    return is_offline(error) or (code in PASSING if code is not None else is_connection(error))


def is_connection(error: BaseException) -> bool:
    """Whether the connection broke, timed out or was never made: the HTTP library's own errors."""
    return _is(error, "TransportError") and type(error).__module__.partition(".")[0] in _CLIENTS


def is_offline(error: BaseException) -> bool:
    return _is(error, "OfflineModeIsEnabled")


def status(error: BaseException) -> int | None:
    """The HTTP status that an error of the client stands for, if it does for one."""
    code = getattr(getattr(error, "response", None), "status_code", None)
    return code if isinstance(code, int) else None


def _is(error: BaseException, name: str) -> bool:
    """By name: the client has had its errors in several modules and its HTTP library under several names."""
    return any(kind.__name__ == name for kind in type(error).__mro__)


def _asked_to_wait(error: BaseException) -> float:
    text = getattr(getattr(error, "response", None), "headers", {}).get("Retry-After", "")
    return min(float(text), PATIENCE) if re.fullmatch(r"\d{1,6}", text) else 0.0


@contextmanager
def translate_errors(where: str, *, writing: bool = False) -> Iterator[None]:
    """What the client raises in the block as one `HubError` about `where`."""
    try:
        yield
    except ZooError:
        raise
    except Exception as error:
        told = _told(where, error, writing)
        if told is None:
            raise
        secret = any(scrub(str(each)) != str(each) for each in _chain(error))
        # A traceback would print the whole chain.
        raise HubError(scrub(told)) from (None if secret else error)


def _told(where: str, error: BaseException, writing: bool) -> str | None:
    """One line for an error of the client, by the first in its chain that says something; None for any other."""
    chain = list(_chain(error))
    for each in chain:
        if _is(each, "GatedRepoError"):
            return f"{where}: access is restricted; ask for it on its page, then `hf auth login`"
        if _is(each, "RevisionNotFoundError"):
            return f"{where}: the repository has no such revision"
        if _is(each, "RemoteEntryNotFoundError"):
            return f"{where}: a file that the repository lists is not there ({_line(each)}); try again"
        if _is(each, "RepositoryNotFoundError") and not writing:
            return f"{where}: no such repository, or a private one; check the name, or `hf auth login`"
        if (code := status(each)) in (401, 403, 404) and not (code == 404 and writing):
            told = "the Hub refused" if writing else "no access"
            needed = "a token that may write there" if writing else "an account that may read it"
            return f"{where}: {told} (HTTP {code}); `hf auth login` with {needed}"
        if _is(each, "HFValidationError"):
            return f"{where}: not a repository's name, expected owner/name"
    for each in chain:
        if is_offline(each):
            return (
                f"{where}: HF_HUB_OFFLINE is set and the files are not in the cache; unset it, or give a local folder"
            )
        if (code := status(each)) is not None:
            busy = "it is busy or out of order" if code in PASSING else _line(each)
            return f"{where}: the Hub answered HTTP {code} ({busy}); try again"
        if is_connection(each) and type(each).__name__.startswith("Connect"):
            return _unreached(where)
        if is_connection(each):
            return f"{where}: the connection to the Hub broke ({type(each).__name__}); check the network and try again"
    if _is(error, "LocalEntryNotFoundError"):
        return _unreached(where)
    from_client = type(error).__module__.partition(".")[0] in ("huggingface_hub", *_CLIENTS)
    if isinstance(error, OSError) or from_client or writing:
        doing = "written" if writing else "read"
        return f"{where}: the Hub could not be {doing} ({_line(error)}); try again"
    return None


def _unreached(where: str) -> str:
    return f"{where}: the Hub could not be reached, and the cache has it not; check the network, or give a local folder"


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__


def scrub(text: str) -> str:
    """`text` without the user's token, or anything that looks like one."""
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


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
