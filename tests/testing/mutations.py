"""One promise of a healthy plugin, broken on purpose."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest


class Mutation(NamedTuple):
    """`old` replaced by `new` (and `old2`) in a file; hook: whose promise that breaks; found: what is said."""

    old: str
    new: str
    hook: str
    found: str
    old2: str = ""
    new2: str = ""


def broken(name: str, path: str, mutations: dict[str, Mutation]) -> list[Any]:
    """Return the parameters of a test for each mutation of that file of that plugin."""
    return [pytest.param(name, path, kind, one, id=f"{name}-{kind}") for kind, one in mutations.items()]
