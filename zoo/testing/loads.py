"""Checks of every plugin: it is found, imports fast, and implements hooks that exist."""

from __future__ import annotations

import inspect
from difflib import get_close_matches

from zoo.catalog import discovery, registry
from zoo.errors import ZooError, did_you_mean
from zoo.plugin import hooks, hookspecs, table
from zoo.plugin.manager import one_line
from zoo.testing.failures import CheckFailed, require
from zoo.testing.promise import IMPORT, REGISTRY, promise
from zoo.testing.subject import ARCHITECTURE, PluginUnderTest


@promise(
    IMPORT,
    "one installed distribution that claims the name",
    "install the package (pip install -e .) and check [project.entry-points.zoo] in its pyproject.toml",
    basic=True,
)
def found(subject: PluginUnderTest) -> None:
    claimed = discovery.claims().get(subject.name)
    reason = discovery.conflict(claimed) if claimed else None
    if reason:
        raise CheckFailed(reason, "leave one plugin of this name installed, or give one of them another name")
    discovery.claim(subject.name)


@promise(
    IMPORT,
    "a module that can be imported",
    "make `python -c 'import ...'` of the entry point's module work; the entry point is name = \"module\"",
    basic=True,
)
def imports(subject: PluginUnderTest) -> None:
    subject.plugin()


@promise(
    IMPORT,
    "functions under names of hooks, decorated with @zoo.hookimpl or named by zoo.hooks",
    "rename the function, or take the decorator off it",
    basic=True,
)
def names_of_hooks(subject: PluginUnderTest) -> None:
    marked = subject.implementations()
    for one in marked:
        near = get_close_matches(one.hook, hooks.HOOKS, n=1, cutoff=0.55)
        require(one.hook in hooks.HOOKS, table.no_such_hook(one.hook), hook=near[0] if near else None)
    if not marked:
        hooks.load(subject.name)  # says what is missing


@promise(
    IMPORT,
    "functions that can be imported, and take no other arguments than their hook has",
    "correct what zoo.hooks says; take only arguments that zoo/plugin/hookspecs.py gives the hook (fewer are fine), "
    "under its names",
    basic=True,
)
def arguments_of_hooks(subject: PluginUnderTest) -> None:
    for one in subject.implementations():
        try:
            table.resolve(subject.plugin(), one.hook, subject.name)
        except ZooError as error:
            raise CheckFailed(str(error), hook=one.hook) from error
        except (Exception, SystemExit) as error:
            if discovery.strict():
                raise
            raise CheckFailed(one_line(error), "make its module importable", one.hook) from error
        given = list(inspect.signature(getattr(hookspecs, one.hook)).parameters)
        for argument in one.arguments:
            near = did_you_mean(argument, given)
            require(argument in given, f"argument {argument!r}.{near} It has {', '.join(given)}", hook=one.hook)


@promise(
    IMPORT,
    "hooks that answer, or wrappers around others' answers (an observer), not both",
    "leave wrapper=True out, or move the wrappers into a plugin of their own",
    basic=True,
)
def answers_or_observes(subject: PluginUnderTest) -> None:
    wrappers = [one.hook for one in subject.implementations() if one.wrapper]
    answers = [one.hook for one in subject.implementations() if not one.wrapper]
    require(not wrappers or not answers, f"{wrappers[:1]} is a wrapper, {answers[:1]} answers")


@promise(IMPORT, "a plugin that zoo can register", "change what zoo refuses", basic=True)
def registers(subject: PluginUnderTest) -> None:
    hooks.load(subject.name)


@promise(
    IMPORT,
    "an import that brings in nothing heavy, so that `zoo info` and `zoo plugins` are quick",
    "import it inside the hooks, in functions, or from a module of your own that only hooks import",
)
def imports_nothing_heavy(subject: PluginUnderTest) -> None:
    seen = subject.seen
    require(not seen.error, f"it cannot be imported by itself: {seen.error}")
    require(not seen.imported, f"{', '.join(seen.imported)} imported at its top level")


@promise(
    IMPORT,
    "an import that prints nothing, because zoo's stdout is data",
    "take the print away, or use the logging module",
)
def prints_nothing(subject: PluginUnderTest) -> None:
    printed = subject.seen.printed
    require(not printed, f"it printed {printed.strip()[:60]!r}")


@promise(
    REGISTRY,
    "a registry.toml, if there is one, in which every entry is as it should be",
    "correct it as the message says; docs of the keys are in zoo/catalog/registry.py",
)
def registry_is_valid(subject: PluginUnderTest) -> None:
    folder = discovery.package_folder(discovery.claim(subject.name).package)
    mine = [fault for fault in registry.problems() if folder is not None and str(folder / registry.FILE) in fault]
    require(not mine, mine[0] if mine else "")


@promise(
    "construct",
    f"an architecture with the hooks {', '.join(ARCHITECTURE)}",
    "implement it, decorated with @zoo.hookimpl",
    basic=True,
)
def has_its_hooks(subject: PluginUnderTest) -> None:
    for hook in ARCHITECTURE:
        require(hook in subject.hooks, f"{hook} is missing", hook=hook)


CHECKS = (
    found,
    imports,
    names_of_hooks,
    arguments_of_hooks,
    answers_or_observes,
    registers,
    imports_nothing_heavy,
    prints_nothing,
    registry_is_valid,
)
ARCHITECTURE_CHECKS = (has_its_hooks,)
