"""Load plugins, each in isolation, and make the calls that reach one of them alone.

Load → register → check; on any exception unregister and remember why. One broken plugin never breaks another.
"""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Callable
from inspect import isroutine
from typing import Any

import pluggy

from zoo.catalog import discovery
from zoo.errors import PluginError, ZooError
from zoo.plugin import builtin, hookspecs, table
from zoo.plugin.hookspecs import HOOKS
from zoo.plugin.table import deprecated_arguments, no_such_hook

BUILTIN = "zoo's own"  # the name under which zoo.plugin.builtin is registered


class _State:
    """All that loading changes; `reset` makes a new one."""

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager(hookspecs.PROJECT)
        self.manager.add_hookspecs(hookspecs)
        self.manager.register(builtin, BUILTIN)
        self.plugins: dict[str, object] = {BUILTIN: builtin}
        self.failures: dict[str, PluginError] = {}
        self.callers: dict[tuple[str, str], Callable[..., Any]] = {}
        self.observers: dict[str, object] = {}  # those that are switched on
        self.environment_read = False  # whether what ZOO_OBSERVE names is among them


_state = _State()
_lock = threading.RLock()  # for whatever changes it: two threads may need a plugin at once


def reset() -> None:
    """Forget every loaded plugin and every failure, and read the installed metadata again."""
    global _state
    _state = _State()
    discovery.forget()


def load(name: str) -> object:
    """Return the plugin `name`, imported and registered at the first call.

    Raises:
        UnknownNameError: no installed distribution offers it.
        PluginError: it is claimed twice, cannot be imported, or breaks the contract; the same error at every call.
    """
    with _lock:
        return _state.plugins[name] if name in _state.plugins else _loaded(name)


def _loaded(name: str) -> object:
    if name in _state.failures:
        raise _state.failures[name]
    claim = discovery.claim(name)
    try:
        plugin = claim.entry_point().load()
        _add(plugin, name)
    except BaseException as error:  # SystemExit, GeneratorExit, one of the plugin's own
        if discovery.strict() or isinstance(error, KeyboardInterrupt):  # it may be the user's
            raise
        failure = PluginError(
            f"plugin {name!r} ({claim.distribution} {claim.version}) cannot be used: {one_line(error)}", plugin=name
        )
        failure.__cause__ = error
        _state.failures[name] = failure
        raise failure from error
    return plugin


def register(plugin: object, name: str) -> None:
    """Add a plugin object of this process (a module, or an instance with hook methods) under `name`.

    One whose implementations are all wrappers observes every plugin's hooks from now on.

    Raises:
        PluginError: it implements no hook, a hook that does not exist, one hook twice, or takes an argument that its
            hook does not have. It is not registered then.
    """
    with _lock:
        _add(plugin, name)
        if observes(name):
            _state.observers[name] = plugin


def observe(name: str) -> None:
    """Switch on the installed observer `name`: it sees every plugin's hooks from now on. `ZOO_OBSERVE=name` does too.

    Installing an observer, or loading it for another reason, does not switch it on.

    Raises:
        UnknownNameError: no installed distribution offers it.
        PluginError: it cannot be loaded, or some of its implementations are not wrappers.
    """
    plugin = load(name)
    if not observes(name):
        raise PluginError(
            f"plugin {name!r} is no observer: expected all of its implementations to be wrappers, "
            "@zoo.hookimpl(wrapper=True)",
            plugin=name,
        )
    _state.observers[name] = plugin
    _state.callers.clear()


def observes(name: str) -> bool:
    """Return whether a plugin is an observer: all of its implementations are wrappers. Loads it."""
    found = _implementations(load(name))
    return bool(found) and all(implementation.wrapper or implementation.hookwrapper for implementation in found)


def _add(plugin: object, name: str) -> None:
    manager = _state.manager
    if name in _state.plugins:
        raise PluginError(f"a plugin {name!r} is registered already: expected a new name", plugin=name)
    if manager.is_registered(plugin):  # one module under two names, say for two variants of an architecture
        _state.plugins[name] = plugin
        return
    _state.callers.clear()
    try:
        _register(plugin, name)
        manager.check_pending()  # a misspelt hook is found by nothing else
        if not _implemented(plugin).intersection(HOOKS):
            raise PluginError(_no_hooks(plugin), plugin=name)
        for hook in HOOKS:
            if _answers(plugin, hook) > 1:
                fix = "leave it out of the table, or leave out the decorated function"
                raise PluginError(f"it implements {hook!r} twice: {fix}", plugin=name, hook=hook)
    except BaseException as error:
        unknown = sorted(_implemented(plugin).difference(HOOKS))
        if manager.has_plugin(name):
            manager.unregister(name=name)
        if isinstance(error, pluggy.PluginValidationError):
            reason = no_such_hook(unknown[0]) if unknown else " ".join(str(error).split())
            raise PluginError(reason, plugin=name) from error
        raise
    _state.plugins[name] = plugin


def _register(plugin: object, name: str) -> None:
    with warnings.catch_warnings():
        # A row of a table takes every argument, those that go away too: `table.resolve` warns if its function does.
        for hook in HOOKS:
            for warning in deprecated_arguments(hook).values() if hasattr(plugin, table.PREFIX + hook) else ():
                warnings.filterwarnings("ignore", re.escape(str(warning)), type(warning))
        _state.manager.register(plugin, name)


def implemented(name: str) -> tuple[str, ...]:
    """Return the hooks that a plugin implements, in the contract's order. Loads it, not the modules of its table."""
    own = _implemented(load(name))
    return tuple(hook for hook in HOOKS if hook in own)


def _implemented(plugin: object) -> set[str]:
    return {caller.name for caller in _state.manager.get_hookcallers(plugin) or ()}


def _answers(plugin: object, hook: str) -> int:
    own = [one for one in getattr(_state.manager.hook, hook).get_hookimpls() if one.plugin is plugin]
    return sum(not (one.wrapper or one.hookwrapper) for one in own)


def _no_hooks(plugin: object) -> str:
    bare = [hook for hook in HOOKS if isroutine(getattr(plugin, hook, None))]
    if bare:
        return f"it implements no hook: its {', '.join(bare)} lacks the decorator @zoo.hookimpl"
    return (
        "it implements no hook: expected functions decorated with @zoo.hookimpl, or a table zoo.hooks(...), of "
        + ", ".join(HOOKS)
    )


def caller(hook: str, plugin: str) -> Callable[..., Any]:
    """Return the call of `hook` that reaches this plugin and the observers alone.

    The plugin is loaded, and the function that its table gives for the hook imported. The call is kept until another
    plugin is registered.

    Raises:
        UnknownNameError: no installed distribution offers the plugin.
        PluginError: the plugin cannot be loaded, or its table's function cannot.
    """
    known = _state.callers.get((hook, plugin))
    if known is not None:
        return known
    with _lock:
        return _made(hook, plugin)


def _made(hook: str, plugin: str) -> Callable[..., Any]:
    if not _state.environment_read:
        _read_environment()
    called = load(plugin)
    if plugin != BUILTIN:
        _resolve(called, hook, plugin)
    manager = _state.manager
    reached = (called, *_state.observers.values())
    others = [other for other in manager.get_plugins() if not any(other is one for one in reached)]
    made = _state.callers[hook, plugin] = manager.subset_hook_caller(hook, others)
    return made


def _resolve(plugin: object, hook: str, name: str) -> None:
    try:
        table.resolve(plugin, hook, name)
    except BaseException as error:  # of the module that the table names
        if isinstance(error, ZooError | KeyboardInterrupt) or discovery.strict():
            raise
        raise failed(name, hook, error) from error


def failed(plugin: str, hook: str, error: BaseException) -> PluginError:
    """Return the error that blames a plugin's hook for an exception."""
    return PluginError(f"plugin {plugin!r} failed in its hook {hook!r}: {one_line(error)}", plugin=plugin, hook=hook)


def _read_environment() -> None:
    for name in discovery.observers():
        try:
            observe(name)
        except ZooError as error:
            raise PluginError(f"ZOO_OBSERVE={','.join(discovery.observers())}: {error}", plugin=name) from error
    _state.environment_read = True


def at_fault(error: BaseException, plugin: str) -> str:
    """Return which plugin raised `error` in a hook of `plugin`: an observer if its code ran, not the plugin's."""
    running, trace = set(), error.__traceback__
    while trace is not None:
        running.add(trace.tb_frame.f_code)
        trace = trace.tb_next
    for name in (plugin, *_state.observers):
        for implementation in _implementations(load(name)):
            if getattr(implementation.function, "__code__", None) in running:
                return name
    return plugin


def _implementations(plugin: object) -> list[pluggy.HookImpl]:
    callers = _state.manager.get_hookcallers(plugin) or ()
    return [one for caller in callers for one in caller.get_hookimpls() if one.plugin is plugin]


def installed(name: str | None) -> str | None:
    """Return `name` if an installed plugin has it: a scheme or an adapter kind that is not zoo's own. Else None."""
    known = name and name not in discovery.RESERVED and (name in discovery.claims() or name in _state.plugins)
    return name if known else None


def all_names() -> tuple[str, ...]:
    """Return the names of all plugins, installed ones and those of this process; zoo's own is not among them."""
    return tuple(dict.fromkeys((*discovery.claims(), *(name for name in _state.plugins if name != BUILTIN))))


def one_line(error: BaseException, limit: int = 400) -> str:
    """Return an exception in one line, with its type unless it is zoo's own."""
    text = " ".join(str(error).split())
    if isinstance(error, ZooError):
        return text
    text = text if len(text) <= limit else text[:limit] + " …"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
