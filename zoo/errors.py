"""The errors that a user of zoo can cause. Each message has what was expected, what was found and what to do next."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable

# What a terminal obeys, or cannot show: control characters, marks that turn the direction of what follows, halves of
# characters. Joiners, which many scripts need, are none of these.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)


def printable(text: str) -> str:
    """Return a text as a terminal may show it: control characters, but for ends of lines and tabs, written out."""
    return _UNPRINTABLE.sub(lambda sign: sign[0].encode("unicode_escape").decode(), text)


_LONGEST = 4000  # characters of an error


class ZooError(Exception):
    """Base of all errors that zoo raises on purpose.

    Their messages quote what strangers wrote, so they are printable, and no longer than anybody reads.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*(printable(_cut(one)) if isinstance(one, str) else one for one in args))


class UnknownNameError(ZooError):
    """A model, plugin, adapter or option of that name is not known."""


class RegistryError(ZooError):
    """A registry file or an entry in it is not valid."""


class PluginError(ZooError):
    """A plugin could not be loaded, failed, or broke its hook's contract.

    plugin, hook: whose fault it is, where that is known; None otherwise.
    """

    def __init__(self, message: str = "", *, plugin: str | None = None, hook: str | None = None) -> None:
        super().__init__(message)
        self.plugin, self.hook = plugin, hook


class CheckpointError(ZooError):
    """A checkpoint is missing, damaged, incomplete or does not fit the module."""


class HubError(ZooError):
    """The Hugging Face Hub could not be reached, or refused."""


class AdapterError(ZooError):
    """An adapter does not fit: unexpected, missing or misshapen keys, another base, a wrong rank or target."""


class QuantizationError(ZooError):
    """The requested quantization does not exist, or the weight cannot be quantized so."""


class WeightError(ZooError):
    """A managed weight was used in a way that is not supported (written in place, renormalised, …)."""


class StateDictError(WeightError, RuntimeError):
    """A state dict does not fit a module with managed weights; torch's own error for one is a RuntimeError too."""


class DataError(ZooError):
    """The data given to tune, evaluate or batches cannot be used."""


class TuningError(ZooError):
    """Tuning stopped: the loss is not finite, nothing can train, or a checkpoint does not fit."""


class OutputError(ZooError):
    """A file or folder cannot be written."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?`, with a leading space, for the nearest known name; else an empty string."""
    from difflib import get_close_matches

    near = get_close_matches(name, list(known), n=1, cutoff=0.55)
    return f" Did you mean {near[0]!r}?" if near else ""


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 500]} … {text[-450:]}"


def shown(value: object, limit: int = 80) -> str:
    """Return a value as an error shows it: in Python's notation, at most `limit` characters."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of too many digits, lists too deep
        return f"a {type(value).__name__} that is too long to show"
    return text if len(text) <= limit else text[: limit - 1] + "…"


def one_line(message: object, limit: int | None = None) -> str:
    """Return a message in one line of at most `limit` characters; for an exception without a text, its type."""
    text = printable(" ".join(str(message).split())[:limit])
    return text or (type(message).__name__ if isinstance(message, BaseException) else "")


class _Printable(logging.Filter):
    """Makes the messages of a logger printable."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the message; let it pass."""
        record.msg, record.args = printable(record.getMessage()), ()
        return True


logging.getLogger("zoo").addFilter(_Printable())
