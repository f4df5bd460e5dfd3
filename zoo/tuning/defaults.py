"""The arguments of a run that the user does not give: what the registry, the plugin and zoo choose."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from zoo.catalog.entry import RANDOM, Entry
from zoo.plugin import hooks
from zoo.tuning import loop
from zoo.tuning.optimizers import optimizer_of, takes
from zoo.tuning.rates import rates_for, usual_lr
from zoo.tuning.settings import BATCH_SIZE

if TYPE_CHECKING:
    from torch import nn

CPU = torch.device("cpu")
# Arguments of `model.tune` that the registry or the plugin may choose, or of which what they choose depends.
CHOSEN = (
    "batch_size",
    "lr",
    "warmup",
    "schedule",
    "rates",
    "optimizer",
    "optimizer_options",
    "weight_decay",
    "betas",
    "gradient_accumulation_steps",
    "ema_decay",
)


def chosen(entry: Entry, given: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Return what the user, else the registry (for random weights), else the plugin says; None counts as not given.

    Among it may be "data" and "minutes", which count where the user gives no others. What the plugin says of AdamW is
    left out for an optimizer of which it means nothing: betas, and a learning rate where steps are not even.

    Args:
        entry: the model's.
        given: what the user says.
        device: where the model is.
    """
    own = {**hooks.tuning(entry), **(entry.pretrain if entry.weights == RANDOM else {})}
    optimizer = given.get("optimizer")
    if optimizer is not None and not takes(optimizer, "betas"):
        own.pop("betas", None)
    if optimizer is not None and "lr" in own and given.get("lr") is None:
        found = optimizer_of(optimizer, device, options=given.get("optimizer_options"), betas=given.get("betas"))
        if not found.even:
            own.pop("lr")
    return {**own, **{name: value for name, value in given.items() if value is not None}}


def defaults(module: nn.Module, entry: Entry, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return every argument of the tuning loop as a run would have it with what is given."""
    usual = {name: one.default for name, one in inspect.signature(loop.tune).parameters.items() if name != "model"}
    usual |= {"batch_size": BATCH_SIZE, "precision": "no"}
    found = {**usual, **chosen(entry, given, CPU)}
    optimizer = optimizer_of(
        found["optimizer"],
        CPU,
        options=found["optimizer_options"],
        betas=found["betas"],
        weight_decay=found["weight_decay"],
    )
    found |= {
        "rates": rates_for(optimizer, found["rates"], found.get("lr")),
        "betas": optimizer.betas and optimizer.betas[:2],
    }
    found["lr"] = usual_lr(module) if found["lr"] is None else found["lr"]
    found |= {name: value for name, value in given.items() if name == "grad_clip"}  # None is no limit
    if any(given.get(name) is not None for name in ("steps", "epochs")):
        found["minutes"] = None
    return found
