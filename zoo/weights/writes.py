"""Which of torch's functions write to their first argument."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def names_in_place(name: str) -> bool:
    """Return whether a function of this name writes to its first argument, by torch's convention."""
    return name.endswith("_") and not name.endswith("__")


def _in_place_functions() -> dict[Callable[..., Any], str]:
    spaces = (Tensor, torch, F, nn.init, torch._C._nn)
    functions = [value for space in spaces for value in (getattr(space, key) for key in dir(space)) if callable(value)]
    names = [(function, getattr(function, "__name__", "")) for function in functions]
    return {function: name for function, name in names if names_in_place(name)}


# torch's functions that write in place. Dynamo cannot read a function's name, but it can look up a function here.
IN_PLACE = _in_place_functions()


def in_place_name(func: Callable[..., Any]) -> str | None:
    """Return the name of a function that writes to its first argument; None for any other."""
    if torch.compiler.is_dynamo_compiling():
        return IN_PLACE.get(func)
    name = getattr(func, "__name__", "")
    return name if names_in_place(name) else None
