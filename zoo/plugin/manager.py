"""Loading plugins, each in isolation, and the calls that reach one of them alone.

Load → register → check, and on any exception unregister and remember why: one broken plugin never breaks another.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from inspect import isroutine
from typing import Any

import pluggy

from zoo.catalog import discovery
from zoo.errors import PluginError, ZooError, did_you_mean
from zoo.plugin import hookspecs

HOOKS = tuple(name for name, value in vars(hookspecs).items() if hasattr(value, f"{hookspecs.PROJECT}_spec"))
BUILTIN = "zoo's own"  # the name under which zoo.plugin.builtin answers


class _State:
    """Everything that loading changes; `reset` makes a new one."""

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager(hookspecs.PROJECT)
        self.manager.add_hookspecs(hookspecs)
        self.plugins: dict[str, object] = {}
        self.failures: dict[str, PluginError] = {}
        self.callers: dict[tuple[str, str], Callable[..., Any]] = {}
        self.observers: dict[str, object] = {}  # those that are switched on
        self.environment_read = False  # whether what ZOO_OBSERVE names is among them


_state = _State()


def reset() -> None:
    """Forget every loaded plugin and every failure, and read the installed metadata again."""
    global _state
    _state = _State()
    discovery.forget()


def load(name: str) -> object:
    """The plugin `name`, imported and registered at the first call.

    Raises:
        UnknownNameError: no installed distribution offers it.
        PluginError: it is claimed twice, cannot be imported, or breaks the contract; the same error at every call.
    """
    if name in _state.plugins:
        return _state.plugins[name]
    if name in _state.failures:
        raise _state.failures[name]
    claim = discovery.claim(name)
    try:
        plugin = claim.entry_point().load()
        _add(plugin, name)
    except (Exception, SystemExit) as error:
        if discovery.strict():
            raise
        failure = PluginError(
            f"plugin {name!r} ({claim.distribution} {claim.version}) cannot be used: {one_line(error)}"
        )
        failure.__cause__ = error
        _state.failures[name] = failure
        raise failure from error
    return plugin


def register(plugin: object, name: str) -> None:
    """Add a plugin object of this process (a module, or an instance with hook methods) under `name`.

    One whose implementations are all wrappers observes every plugin's hooks from now on. Raises PluginError if it
    implements no hook, or one that does not exist or takes arguments that its hook has not; it is not registered then.
    """
    _add(plugin, name)
    if observes(name):
        _state.observers[name] = plugin


def observe(name: str) -> None:
    """Let the installed observer `name` see every plugin's hooks from now on; `ZOO_OBSERVE=name` does it too.

    An observer that is installed, or loaded for another reason, sees nothing until it is asked to. Raises PluginError
    for a plugin that answers hooks itself, and whatever `load` raises.
    """
    plugin = load(name)
    if not observes(name):
        raise PluginError(
            f"plugin {name!r} is no observer: expected all of its implementations to be wrappers, "
            "@zoo.hookimpl(wrapper=True)"
        )
    _state.observers[name] = plugin
    _state.callers.clear()


def observes(name: str) -> bool:
    """Whether a plugin only watches: all of its implementations are wrappers. Loads it."""
    found = _implementations(load(name))
    return bool(found) and all(implementation.wrapper or implementation.hookwrapper for implementation in found)


def _add(plugin: object, name: str) -> None:
    manager = _state.manager
    if name in _state.plugins:
        raise PluginError(f"a plugin {name!r} is registered already: expected a new name")
    if manager.is_registered(plugin):  # one module under two names, say for two variants of an architecture
        _state.plugins[name] = plugin
        return
    _state.callers.clear()
    try:
        manager.register(plugin, name)
        manager.check_pending()  # a misspelt hook is found by nothing else
        if not _implemented(plugin).intersection(HOOKS):
            raise PluginError(_no_hooks(plugin))
    except BaseException as error:
        unknown = sorted(_implemented(plugin).difference(HOOKS))
        if manager.has_plugin(name):
            manager.unregister(name=name)
        if isinstance(error, pluggy.PluginValidationError):
            raise PluginError(_no_such_hook(unknown[0]) if unknown else " ".join(str(error).split())) from error
        raise
    _state.plugins[name] = plugin


def implemented(name: str) -> tuple[str, ...]:
    """The hooks that a plugin implements, in the contract's order; loads it."""
    own = _implemented(load(name))
    return tuple(hook for hook in HOOKS if hook in own)


def _implemented(plugin: object) -> set[str]:
    return {caller.name for caller in _state.manager.get_hookcallers(plugin) or ()}


def _no_such_hook(name: str) -> str:
    return f"there is no hook {name!r}.{did_you_mean(name, HOOKS)} The hooks are {', '.join(HOOKS)}"


def _no_hooks(plugin: object) -> str:
    bare = [hook for hook in HOOKS if isroutine(getattr(plugin, hook, None))]
    if bare:
        return f"it implements no hook: its {', '.join(bare)} lacks the decorator @zoo.hookimpl"
    return f"it implements no hook: expected functions decorated with @zoo.hookimpl among {', '.join(HOOKS)}"


def caller(hook: str, plugin: str) -> Callable[..., Any]:
    """A call of `hook` that reaches this plugin and the observers alone, kept until a plugin is registered."""
    known = _state.callers.get((hook, plugin))
    if known is not None:
        return known
    if plugin == BUILTIN and BUILTIN not in _state.plugins:
        register(import_module("zoo.plugin.builtin"), BUILTIN)
    if not _state.environment_read:
        _read_environment()
    asked = load(plugin)
    manager = _state.manager
    heard = (asked, *_state.observers.values())
    others = [other for other in manager.get_plugins() if not any(other is one for one in heard)]
    made = _state.callers[hook, plugin] = manager.subset_hook_caller(hook, others)
    return made


def _read_environment() -> None:
    for name in discovery.observers():
        try:
            observe(name)
        except ZooError as error:
            raise PluginError(f"ZOO_OBSERVE={','.join(discovery.observers())}: {error}") from error
    _state.environment_read = True


def at_fault(error: BaseException, plugin: str) -> str:
    """Who raised `error` out of a hook of `plugin`: an observer, if its code was running and not the plugin's."""
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
    """`name` if an installed plugin is called so: a scheme or an adapter kind that is not zoo's own."""
    known = name and name not in discovery.RESERVED and (name in discovery.claims() or name in _state.plugins)
    return name if known else None


def one_line(error: BaseException, limit: int = 400) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())
    if isinstance(error, ZooError):
        return text
    text = text if len(text) <= limit else text[:limit] + " …"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
