"""The errors that a user of zoo can cause. Each message has what was expected, what was found and what to do next."""

from __future__ import annotations

from collections.abc import Iterable


class ZooError(Exception):
    """Base of all errors that zoo raises on purpose."""


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


def one_line(message: object, limit: int | None = None) -> str:
    """Return a message in one line of at most `limit` characters; for an exception without a text, its type."""
    text = " ".join(str(message).split())[:limit]
    return text or (type(message).__name__ if isinstance(message, BaseException) else "")
