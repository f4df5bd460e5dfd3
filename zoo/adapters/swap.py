"""Putting another adapter's values into the tensors of one that is there: nothing that was compiled is compiled again.

A compiled module holds on to the tensors it has seen, their shapes and the numbers in its code. So the values are
copied in place; factors of a lower rank are filled up with zeros, and a scale other than the slot's is folded into B.
"""

from __future__ import annotations

import copy
from dataclasses import fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zoo.adapters.adapter_set import AdapterSet, PreparedAdapter
from zoo.errors import AdapterError
from zoo.methods.config import Adapter
from zoo.weights.update import LowRankUpdate, Update
from zoo.weights.walk import stores

OTHERWISE = "remove the adapter and add the new one, which compiles again"


class Given(NamedTuple):
    """What the adapter in a slot has by itself: rank 0 where it has nothing for this weight."""

    rank: int
    scale: float


class _Move(NamedTuple):
    """What goes into one update: each of its tensors' new values, and what `compact` has to know."""

    slot: Update
    values: dict[str, Tensor]
    given: Given | None


def swap(adapters: AdapterSet, prepared: PreparedAdapter) -> None:
    """Put a prepared adapter into the one of its name; see `zoo.Model.swap_adapter`."""
    name = prepared.name
    old = adapters.unmerged(name)
    if prepared.config.kind != old.kind:
        kinds = f"is of kind {old.kind!r}, the new one of kind {prepared.config.kind!r}"
        raise AdapterError(f"adapter {name!r} {kinds}: {OTHERWISE}")
    slots = {path: store.updates[name] for path, store in stores(adapters.module).items() if name in store.updates}
    for path in prepared.updates:
        if path not in slots:
            raise AdapterError(f"{path}: the new adapter changes it, adapter {name!r} does not: {OTHERWISE}")
    # One without tensors goes with another's to a bias, and follows that.
    own = [(path, slot) for path, slot in slots.items() if _tensors(slot)]  # type: ignore[arg-type]
    moves = [_move(path, slot, prepared.updates.get(path)) for path, slot in own]  # type: ignore[arg-type]
    with torch.no_grad():
        for slot, values, given in moves:
            for key, value in values.items():
                getattr(slot, key).copy_(value)
            slot.given = given  # type: ignore[assignment]
    adapters.configs[name] = _with_dropout_of(prepared.config, old)
    adapters.records[name] = dict(prepared.record or {})


def _move(path: str, slot: Update, new: Update | None) -> _Move:
    if new is None:
        return _Move(slot, _zeros(path, slot), Given(0, 1.0))
    if type(new) is not type(slot):
        raise AdapterError(f"{path}: expected an update of kind {_named(slot)}, got {_named(new)}: {OTHERWISE}")
    mine, theirs, values, given = _plain(slot), _plain(new), _tensors(new), None
    if isinstance(slot, LowRankUpdate) and isinstance(new, LowRankUpdate):
        if new.rank > slot.rank:
            raise AdapterError(f"{path}: expected at most rank {slot.rank}, the slot's, got {new.rank}: {OTHERWISE}")
        if slot.scale == 0:
            raise AdapterError(f"{path}: the slot's scale is 0, so that nothing in it has an effect: {OTHERWISE}")
        given = Given(new.rank, new.scale)
        mine |= given._asdict()
        values = _fitted(slot, values, new.scale / slot.scale)
    for key, tensor in _tensors(slot).items():
        got = tuple(values[key].shape) if key in values else "none"
        if got != tuple(tensor.shape):
            raise AdapterError(f"{path}: expected {key} of shape {tuple(tensor.shape)}, got {got}: {OTHERWISE}")
    for key in (*mine, *theirs):
        if mine.get(key) != theirs.get(key):
            expected = f"expected {key} = {mine.get(key)}, the slot's, got {theirs.get(key)}"
            raise AdapterError(f"{path}: {expected}: {OTHERWISE}")
    return _Move(slot, values, given)


def _fitted(slot: LowRankUpdate, values: dict[str, Tensor], ratio: float) -> dict[str, Tensor]:
    """Factors as the slot's: zeros beyond their own rank, which stay zero in training too, and the scale in B."""
    fitted = dict(values)
    for key, tensor in _tensors(slot).items():
        if key.startswith(("A", "B")) and key in values:
            value = values[key] * ratio if key.startswith("B") else values[key]
            fitted[key] = value.new_zeros(tensor.shape)
            fitted[key][tuple(slice(size) for size in value.shape)] = value
    return fitted


def _zeros(path: str, slot: Update) -> dict[str, Tensor]:
    """Values with which an update changes nothing."""
    found = _tensors(slot)
    if slot.kind != "lora" or slot.takes_base:
        what = f"the new adapter does not change it, and {_named(slot)} cannot be made to do nothing"
        raise AdapterError(f"{path}: {what}: {OTHERWISE}")
    return {key: torch.zeros_like(tensor) for key, tensor in found.items()}


def _tensors(update: Update) -> dict[str, Tensor]:
    return {key: tensor.detach() for key, tensor in (*update.named_parameters(), *update.named_buffers())}


def _plain(update: Update) -> dict[str, Any]:
    """What an update knows besides its tensors, and what code that runs it may have been compiled for."""
    other = ("training", "given", "dropout")
    return {key: value for key, value in vars(update).items() if not key.startswith("_") and key not in other}


def _named(update: Update) -> str:
    return f"{update.kind!r} ({type(update).__name__})"


def _with_dropout_of(config: Adapter, old: Adapter) -> Adapter:
    """The new configuration with the slot's dropout, which is a number in compiled code too."""
    if any(one.name == "dropout" for one in fields(config)):  # type: ignore[arg-type]
        return replace(config, dropout=getattr(old, "dropout", 0.0))  # type: ignore[type-var]
    return config


def compact(update: Update) -> Update | None:
    """An update as the adapter that was swapped in had it, zeros cut off; None where it had none for the weight."""
    given = getattr(update, "given", None)
    if given is not None and given.rank == 0:
        return None
    if given is None or not isinstance(update, LowRankUpdate):
        return update
    made = copy.copy(update)
    made.rank, made.scale = given
    made._parameters = dict(update._parameters)
    for key, tensor in _tensors(update).items():  # a residual's are two pairs, which share the rank
        if key.startswith("A"):
            kept = tensor.shape[0] * given.rank // update.rank
            made._parameters[key] = nn.Parameter(tensor[:kept], requires_grad=False)
        elif key.startswith("B"):
            kept = tensor.shape[1] * given.rank // update.rank
            cut = tensor[:, :kept] * (update.scale / given.scale if given.scale else 1.0)
            made._parameters[key] = nn.Parameter(cut, requires_grad=False)
    return made
