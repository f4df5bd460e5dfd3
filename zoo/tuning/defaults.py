"""The arguments of a run that the user does not give: what the registry, the plugin and zoo choose."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zoo.catalog.entry import RANDOM, Entry
from zoo.plugin import hooks
from zoo.tuning import loop
from zoo.tuning.rates import usual_lr
from zoo.tuning.settings import BATCH_SIZE

if TYPE_CHECKING:
    from torch import nn


def chosen(entry: Entry, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the user, else the registry (for random weights), else the plugin says; None counts as not given.

    Among it may be "data" and "minutes", which count where the user gives no others.
    """
    own = {**hooks.tuning(entry), **(entry.pretrain if entry.weights == RANDOM else {})}
    return {**own, **{name: value for name, value in given.items() if value is not None}}


def defaults(module: nn.Module, entry: Entry, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return every argument of the tuning loop as a run would have it with what is given."""
    usual = {name: one.default for name, one in inspect.signature(loop.tune).parameters.items() if name != "model"}
    usual |= {"batch_size": BATCH_SIZE, "lr": usual_lr(module), "precision": "no"}
    found = {**usual, **chosen(entry, given)}
    found |= {name: value for name, value in given.items() if name == "grad_clip"}  # None is no limit
    if any(given.get(name) is not None for name in ("steps", "epochs")):
        found["minutes"] = None
    return found
