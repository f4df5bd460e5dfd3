"""Every error that a user of zoo can cause. Each says what was expected, what was found and what to do next."""

from __future__ import annotations

from collections.abc import Iterable


class ZooError(Exception):
    """Base of all errors that zoo raises on purpose."""


class UnknownNameError(ZooError):
    """A model, plugin, adapter or option of that name is not known."""


class RegistryError(ZooError):
    """A registry file or an entry in it is not valid."""


class PluginError(ZooError):
    """A plugin could not be loaded, or broke its hook's contract."""


class CheckpointError(ZooError):
    """A checkpoint is missing, damaged, incomplete or does not fit the module."""


class HubError(ZooError):
    """The Hugging Face Hub could not be reached, or refused."""


class AdapterError(ZooError):
    """An adapter does not fit: unexpected, missing or misshapen keys, another base, a wrong rank or target."""


class QuantizationError(ZooError):
    """A quantization was asked for that does not exist or that the weight cannot take."""


class WeightError(ZooError):
    """A managed weight was used in a way that cannot be honoured (written in place, renormalised, …)."""


class DataError(ZooError):
    """The data given to tune, evaluate or batches cannot be used."""


class TuningError(ZooError):
    """Tuning stopped: the loss is not finite, nothing can train, or a checkpoint does not fit."""


class OutputError(ZooError):
    """A file or folder cannot be written."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` with a leading space for the nearest known word, or an empty string."""
    from difflib import get_close_matches

    near = get_close_matches(word, list(known), n=1, cutoff=0.55)
    return f" Did you mean {near[0]!r}?" if near else ""
