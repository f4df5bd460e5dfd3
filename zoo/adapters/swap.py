"""Swap another adapter's values into the tensors of an attached one, so that compiled code stays valid.

A compiled module depends on the tensors it has seen, their shapes and the numbers in its code. So the values are
copied in place; factors of a lower rank are padded with zeros, and a scale other than the slot's is folded into B.
The slot is the attached adapter whose tensors take the values.
"""

from __future__ import annotations

import copy
from dataclasses import fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zoo.adapters.adapter_set import AdapterSet
from zoo.adapters.prepared import PreparedAdapter
from zoo.errors import AdapterError
from zoo.methods.config import Adapter
from zoo.weights.update import LowRankUpdate, Update
from zoo.weights.walk import managed_weights

OTHERWISE = "remove the adapter and add the new one, which compiles again"


class SwappedIn(NamedTuple):
    """The rank and scale that the adapter in a slot has by itself.

    Attributes:
        rank: Its rank; 0 if it does not change this weight.
        scale: Its scale.
    """

    rank: int
    scale: float


class _Assignment(NamedTuple):
    """New values for the tensors of one slot's update, and its `swapped_in` attribute."""

    slot: Update
    values: dict[str, Tensor]
    swapped_in: SwappedIn | None


def swap(adapters: AdapterSet, prepared: PreparedAdapter) -> None:
    """Swap a prepared adapter into the slot of its name; see `zoo.Model.swap_adapter`."""
    with adapters.turns.changing():
        _swap(adapters, prepared)


def _swap(adapters: AdapterSet, prepared: PreparedAdapter) -> None:
    name = prepared.name
    old = adapters.unmerged(name)
    if prepared.config.kind != old.kind:
        kinds = f"is of kind {old.kind!r}, the new one of kind {prepared.config.kind!r}"
        raise AdapterError(f"adapter {name!r} {kinds}: {OTHERWISE}")
    slots = {
        path: managed.updates[name]
        for path, managed in managed_weights(adapters.module).items()
        if name in managed.updates
    }
    for path in prepared.updates:
        if path not in slots:
            raise AdapterError(f"{path}: the new adapter changes it, adapter {name!r} does not: {OTHERWISE}")
    # An update of a bias has no tensors if it belongs to another weight's update, and follows that one.
    own = [(path, slot) for path, slot in slots.items() if _tensors(slot)]  # type: ignore[arg-type]
    assignments = [_assign(path, slot, prepared.updates.get(path)) for path, slot in own]  # type: ignore[arg-type]
    with torch.no_grad():
        for slot, values, swapped_in in assignments:
            for key, value in values.items():
                getattr(slot, key).copy_(value)
            slot.swapped_in = swapped_in  # type: ignore[assignment]
    adapters.buffers.notice()
    adapters.buffers.own[name] = dict(prepared.buffers)
    adapters.apply(adapters.weights)
    adapters.configs[name] = _with_dropout_of(prepared.config, old)
    adapters.records[name] = dict(prepared.record or {})


def _assign(path: str, slot: Update, new: Update | None) -> _Assignment:
    if new is None:
        return _Assignment(slot, _zeros(path, slot), SwappedIn(0, 1.0))
    if type(new) is not type(slot):
        raise AdapterError(f"{path}: expected an update of kind {_described(slot)}, got {_described(new)}: {OTHERWISE}")
    old_attributes, new_attributes, values, swapped_in = _attributes(slot), _attributes(new), _tensors(new), None
    if isinstance(slot, LowRankUpdate) and isinstance(new, LowRankUpdate):
        if new.rank > slot.rank:
            raise AdapterError(f"{path}: expected at most rank {slot.rank}, the slot's, got {new.rank}: {OTHERWISE}")
        if slot.scale == 0:
            raise AdapterError(f"{path}: the slot's scale is 0, so that nothing in it has an effect: {OTHERWISE}")
        swapped_in = SwappedIn(new.rank, new.scale)
        old_attributes |= swapped_in._asdict()
        values = _padded(slot, values, new.scale / slot.scale)
    for key, tensor in _tensors(slot).items():
        got = tuple(values[key].shape) if key in values else "none"
        if got != tuple(tensor.shape):
            raise AdapterError(f"{path}: expected {key} of shape {tuple(tensor.shape)}, got {got}: {OTHERWISE}")
    for key in (*old_attributes, *new_attributes):
        old_value, new_value = old_attributes.get(key), new_attributes.get(key)
        if old_value != new_value:
            raise AdapterError(f"{path}: expected {key} = {old_value}, the slot's, got {new_value}: {OTHERWISE}")
    return _Assignment(slot, values, swapped_in)


def _padded(slot: LowRankUpdate, values: dict[str, Tensor], ratio: float) -> dict[str, Tensor]:
    """Pad factors with zeros to the slot's rank, which stay zero in training too, and fold the scale into B."""
    padded = dict(values)
    for key, tensor in _tensors(slot).items():
        if key.startswith(("A", "B")) and key in values:
            value = values[key] * ratio if key.startswith("B") else values[key]
            padded[key] = value.new_zeros(tensor.shape)  # of the slot's rank
            padded[key][tuple(slice(size) for size in value.shape)] = value
    return padded


def _zeros(path: str, slot: Update) -> dict[str, Tensor]:
    """Return values with which an update changes nothing."""
    if slot.kind != "lora" or slot.takes_base:
        what = f"the new adapter does not change it, and {_described(slot)} cannot be made to do nothing"
        raise AdapterError(f"{path}: {what}: {OTHERWISE}")
    return {key: torch.zeros_like(tensor) for key, tensor in _tensors(slot).items()}


def _tensors(update: Update) -> dict[str, Tensor]:
    return {key: tensor.detach() for key, tensor in (*update.named_parameters(), *update.named_buffers())}


def _attributes(update: Update) -> dict[str, Any]:
    """Return an update's attributes other than tensors, for which code that runs it may be compiled."""
    ignored = ("training", "swapped_in", "dropout")
    return {key: value for key, value in vars(update).items() if not key.startswith("_") and key not in ignored}


def _described(update: Update) -> str:
    return f"{update.kind!r} ({type(update).__name__})"


def _with_dropout_of(config: Adapter, old: Adapter) -> Adapter:
    """Return the new configuration with the slot's dropout, which is a constant in compiled code too."""
    if any(one.name == "dropout" for one in fields(config)):  # type: ignore[arg-type]
        return replace(config, dropout=getattr(old, "dropout", 0.0))  # type: ignore[type-var]
    return config


def unpadded(update: Update) -> Update | None:
    """Return an update as the adapter that was swapped in has it, without zero padding.

    None if that adapter does not change the weight.
    """
    swapped_in = getattr(update, "swapped_in", None)
    if swapped_in is not None and swapped_in.rank == 0:
        return None
    if swapped_in is None or not isinstance(update, LowRankUpdate):
        return update
    result = copy.copy(update)
    result.rank, result.scale = swapped_in
    result._parameters = dict(update._parameters)
    for key, tensor in _tensors(update).items():  # PiSSA has two pairs, each of half the rank
        if key.startswith("A"):
            kept = tensor.shape[-2] * swapped_in.rank // update.rank
            result._parameters[key] = nn.Parameter(tensor[..., :kept, :], requires_grad=False)
        elif key.startswith("B"):
            kept = tensor.shape[-1] * swapped_in.rank // update.rank
            ratio = update.scale / swapped_in.scale if swapped_in.scale else 1.0
            cut = tensor[..., :kept] * ratio  # (…, outputs, kept)
            result._parameters[key] = nn.Parameter(cut, requires_grad=False)
    return result
