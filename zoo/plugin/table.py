"""A plugin as a table: in which of its modules each hook's function is, declared without importing any of them.

    zoo.hooks(construct=".model", loss=".training", sample=".sampling:draw")

Each row becomes a function in the plugin's module, marked as a decorated one is. It does not have the hook's name:
importing the module of `loss=".loss"` binds `loss` in the package.
"""

from __future__ import annotations

import inspect
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import wraps
from importlib import import_module
from importlib.util import resolve_name
from operator import attrgetter
from pkgutil import iter_modules
from typing import Any

from zoo.errors import PluginError, did_you_mean
from zoo.plugin import hookspecs
from zoo.plugin.hookspecs import HOOKS, PROJECT

PREFIX = "_zoo_hook_"  # of the names of such functions


def hooks(**table: str | Callable[..., Any]) -> None:
    """Declare which functions implement a plugin's hooks. Call it at the top level of the plugin's module.

    Args:
        table: hook → ".training", the module of the plugin's package with a function called like the hook;
            ".training:other", another function of it; "package.module", any module; or the function itself.
            It is imported, and its arguments are checked, when the hook is first called.

    Raises:
        PluginError: there is no such hook, or the value cannot name a function.
    """
    module = sys._getframe(1).f_globals
    where, package = f"zoo.hooks in {module.get('__name__')}", module.get("__package__") or ""
    for hook, target in table.items():
        if hook not in HOOKS:
            raise PluginError(f"{where}: {no_such_hook(hook)}")
        if not callable(target) and not (isinstance(target, str) and re.fullmatch(r"[\w.]+(:[\w.]+)?", target)):
            raise PluginError(f"{where}: expected {hook}='.module', '.module:function' or a function, got {target!r}")
        if isinstance(target, str) and target.startswith(".") and not package:
            raise PluginError(f"{where}: expected a module's full name, as this one is in no package, got {target!r}")
        module[PREFIX + hook] = _implementation(_Row(hook, target, package))


def resolve(plugin: object, hook: str, name: str) -> None:
    """Import the function that the table in a plugin's module gives for a hook, if any, and check its arguments.

    Raises:
        PluginError: it is not there, or takes an argument that the hook does not have. It is called plugin `name`'s.
    """
    row = getattr(getattr(plugin, PREFIX + hook, None), "row", None)
    if isinstance(row, _Row):
        try:
            row.resolve()
        except PluginError as error:
            reason = f"plugin {name!r}, hook {hook!r}, zoo.hooks({hook}={row.target!r}): {error}"
            raise PluginError(reason, plugin=name, hook=hook) from error


def forgotten(plugin: object) -> list[str]:
    """Return the functions, as "module:function", that are a hook's by name and arguments and that no row names.

    They lie in the modules in which the table of `plugin` has functions.
    """
    rows = [row for row in (getattr(value, "row", None) for value in vars(plugin).values()) if isinstance(row, _Row)]
    taken = [row.resolve()[0] for row in rows]
    hooks_called = {row.hook for row in rows} | {
        name for name in HOOKS if hasattr(getattr(plugin, name, None), f"{PROJECT}_impl")
    }
    found = []
    for place in dict.fromkeys(function.__module__ for function in taken):
        for name, function in vars(sys.modules[place]).items():
            if name not in HOOKS or name in hooks_called or not inspect.isfunction(function):
                continue
            known = inspect.signature(getattr(hookspecs, name)).parameters
            if function.__module__ == place and inspect.signature(function).parameters.keys() <= known.keys():
                found.append(f"{place}:{name}")
    return found


def _implementation(row: _Row) -> Callable[..., Any]:
    """Return the function to register. pluggy reads the hook's arguments off `__wrapped__`, and gives all of them."""

    @wraps(getattr(hookspecs, row.hook), updated=())
    def implementation(*given: Any) -> Any:
        function, taken = row.resolve()
        return function(**{name: value for name, value in zip(row.known, given, strict=True) if name in taken})

    implementation.row = row  # type: ignore[attr-defined]
    return hookspecs.hookimpl(specname=row.hook)(implementation)


class _Row:
    """One hook of a table: where its function is, and the function once it is known."""

    def __init__(self, hook: str, target: str | Callable[..., Any], package: str) -> None:
        self.hook, self.target, self.package = hook, target, package
        self.known = tuple(inspect.signature(getattr(hookspecs, hook)).parameters)
        self.resolved: tuple[Callable[..., Any], set[str]] | None = None

    def resolve(self) -> tuple[Callable[..., Any], set[str]]:
        """Return the function, and which of the hook's arguments it takes; both are found once."""
        if self.resolved is None:
            function = self._imported(self.target) if isinstance(self.target, str) else self.target
            self.resolved = function, set(self._taken(function))
        return self.resolved

    def _imported(self, target: str) -> Callable[..., Any]:
        place, _, name = target.partition(":")
        full, name = resolve_name(place, self.package), name or self.hook
        try:
            module = import_module(full)
        except ModuleNotFoundError as error:
            if not f"{full}.".startswith(f"{error.name}."):
                raise  # a library that the module itself needs
            beside = [f".{one.name}" for one in iter_modules(getattr(sys.modules.get(self.package), "__path__", ()))]
            raise PluginError(f"there is no module {full!r}.{did_you_mean(place, beside)}") from error
        try:
            return attrgetter(name)(module)
        except AttributeError as error:
            raise PluginError(f"{full} has no function {name!r}.{did_you_mean(name, vars(module))}") from error

    def _taken(self, function: Callable[..., Any]) -> Iterator[str]:
        going = deprecated_arguments(self.hook)
        for one in inspect.signature(function).parameters.values():
            if one.name in self.known and one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY):
                if one.name in going:
                    warnings.warn(going[one.name], stacklevel=2)
                yield one.name
            elif one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD):
                near = did_you_mean(one.name, self.known)
                raise PluginError(f"it takes the argument {one.name!r}.{near} The hook has {', '.join(self.known)}")


def no_such_hook(name: str) -> str:
    """Return the message about a hook that does not exist, with the nearest one that does."""
    return f"there is no hook {name!r}.{did_you_mean(name, HOOKS)} The hooks are {', '.join(HOOKS)}"


def deprecated_arguments(hook: str) -> dict[str, Warning]:
    """Return the arguments of a hook that a later version removes, each with its warning."""
    return getattr(getattr(hookspecs, hook), f"{PROJECT}_spec").get("warn_on_impl_args") or {}
