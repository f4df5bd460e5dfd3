"""Call one hook of one plugin after the other, and check what comes back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from zoo.catalog import discovery
from zoo.catalog.discovery import strict
from zoo.errors import PluginError, ZooError
from zoo.plugin.guarded import Guarded
from zoo.plugin.manager import BUILTIN, at_fault, caller, failed, implemented, installed

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.catalog.entry import Entry


class AnswerError(PluginError):
    """A hook returned something else than its contract says, or an architecture lacks a hook that is needed."""


def not_builtin(name: str | None) -> str | None:
    """Return the name of a scheme or an adapter kind if an installed plugin brings it, else None."""
    return installed(name) if name and name not in discovery.RESERVED else None


def required(hook: str, entry: Entry, /, **arguments: Any) -> Any:
    """Return what the plugin that an entry names answers.

    Raises:
        PluginError: there is no plugin, or it does not answer.
    """
    result, plugin = first(hook, (entry.plugin,), **arguments)
    if result is None:
        if not plugin:
            raise PluginError(
                f"{entry.name!r} has no plugin, and {hook!r} needs one: call the module itself", hook=hook
            )
        did = "returned None from its hook" if hook in implemented(plugin) else "does not implement the hook"
        message = f"plugin {plugin!r} {did} {hook!r}, which an architecture needs for this"
        raise AnswerError(message, plugin=plugin, hook=hook)
    return result


def first(hook: str, plugins: Iterable[str | None], /, **arguments: Any) -> tuple[Any, str]:
    """Return the first result that is not None and the plugin it is from; else None and the last plugin called."""
    last = ""
    for last in filter(None, plugins):
        result = call_one(hook, last, **arguments)
        if result is not None:
            return result, last
    return None, last


def call_one(hook: str, plugin: str, /, **arguments: Any) -> Any:
    """Return what one plugin answers; what it raises is said to be its failure."""
    call = caller(hook, plugin)
    try:
        return call(**arguments)
    except Exception as error:
        culprit = at_fault(error, plugin)
        if isinstance(error, ZooError) or culprit == BUILTIN or strict():
            raise
        raise failed(culprit, hook, error) from error


def checked(value: Any, right: bool, who: Entry | str, hook: str, expected: str) -> Any:
    """Return a hook's result; raise `AnswerError` if it is not right."""
    if not right:
        raise broke(who, hook, expected, f"{type(value).__module__}.{type(value).__qualname__}")
    return value


def broke(who: Entry | str, hook: str, expected: str, got: str) -> AnswerError:
    """Return the error to raise for a result that is not what the contract says."""
    plugin = who if isinstance(who, str) else who.plugin
    message = f"plugin {plugin!r} broke the contract of its hook {hook!r}: expected {expected}, got {got}"
    return AnswerError(message, plugin=plugin, hook=hook)


def each_pair(pairs: Iterable[Any], plugin: str) -> Iterator[tuple[str, Tensor]]:
    """Yield the pairs of a checkpoint, each checked."""
    from torch import Tensor

    for pair in Guarded(pairs, plugin, "checkpoint"):
        if not (
            isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) and isinstance(pair[1], Tensor)
        ):
            raise broke(plugin, "checkpoint", "pairs (parameter name, tensor)", f"{type(pair).__qualname__}")
        yield pair
