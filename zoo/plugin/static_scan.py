"""What a plugin's source says that it implements, read without running any of it."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import NamedTuple

from zoo.catalog import discovery


class Declared(NamedTuple):
    """hooks: the functions marked with `@hookimpl`, in the order of the source. wrappers: how many only wrap."""

    hooks: tuple[str, ...] = ()
    wrappers: int = 0


def declared(claim: discovery.Claim) -> Declared:
    """What the module of an entry point marks as hooks; nothing for a module whose source cannot be read so.

    Functions that a module imports from elsewhere, or marks in another way, are not seen: an import would show them.
    """
    path = _source(claim)
    try:
        tree = ast.parse(path.read_text(encoding="utf-8")) if path is not None else None
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
        return Declared()
    found = {}
    for node in ast.walk(tree) if tree is not None else ():
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for mark in node.decorator_list:
                called = mark.func if isinstance(mark, ast.Call) else mark
                name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
                if name == "hookimpl":
                    found[node.name] = isinstance(mark, ast.Call) and _wraps(mark)
    return Declared(tuple(found), sum(found.values()))


def _wraps(mark: ast.Call) -> bool:
    return any(
        word.arg in ("wrapper", "hookwrapper") and isinstance(word.value, ast.Constant) and word.value.value is True
        for word in mark.keywords
    )


def _source(claim: discovery.Claim) -> Path | None:
    """The file of the entry point's module, found without importing its package."""
    from importlib.machinery import PathFinder

    module = claim.value.partition(":")[0].partition("[")[0].strip()
    top, *rest = module.split(".")
    folder = discovery.package_folder(top)
    if folder is None:  # a module of a single file
        try:
            spec = PathFinder.find_spec(top)
        except (ImportError, ValueError):
            return None
        return Path(spec.origin) if spec is not None and spec.origin and not rest else None
    place = folder.joinpath(*rest)
    candidates = (place / "__init__.py", place.with_suffix(".py"))
    return next((path for path in candidates if path.is_file()), None)
