"""The dense form of one managed weight, kept while it is used again and again, and which weights have one.

A weight is kept from its second use on, so that a module that runs once keeps nothing. Where not all have room, those
whose computing costs most per byte that it would save take the place of others.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.offload import HOOK
from zoo.weights.update import without_autocast

# Cost of dequantizing a weight beside its values, as so many more of them: 30 µs and .2 ns a value on one CPU core, 4
# and 8 bit alike. Adding a low-rank update takes about twice as long per value as dequantizing one.
CALL = 1 << 17
UPDATE = 2
LOOKS = 3  # at one weight by one operation, at most: for paths of its own, and for the dense weight
MUCH = 2  # times as much another weight has to save to take a kept one's place
WIDE = (torch.float32, torch.float64)


class _Origin(NamedTuple):
    """What a kept weight was computed from.

    Attributes:
        state: What is active and merged: see `_state`.
        held: The objects whose identities those are.
        tensors: Where each tensor is found, itself, and how often it had been written to.
    """

    state: tuple[int, ...]
    held: tuple[object, ...]
    tensors: tuple[tuple[dict[str, Tensor | None], str, Tensor, int], ...]
    dtype: torch.dtype
    device: torch.device


class KeptWeight:
    """A managed weight in a block that keeps dense weights: itself, or its dense form if that is kept.

    Attributes:
        source: The managed weight.
        uses: How often its dense form was needed.
        size: Bytes of its dense form.
        cost: What computing that takes each time, in values.
        view: A managed weight of the dense form; None if it is not kept.
    """

    def __init__(self, source: ManagedWeight, store: KeptWeights) -> None:
        self.source, self.store = source, store
        self.view: ManagedWeight | None = None
        self.uses = 0
        values = source.shape.numel()
        self.size = values * source.dtype.itemsize
        self.cost = 0 if source.dense_parameter() is not None or source._replacing else CALL + values
        self.cost += UPDATE * values * len(source.active_updates())
        self._origin: _Origin | None = None

    def now(self, needs_dense: bool) -> ManagedWeight:
        """Return what to compute with.

        Args:
            needs_dense: Whether the whole dense weight is computed if it is not kept, and not only rows of it.
        """
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self.source  # what trains needs a graph, and compiled code outlives the block
        if self.view is not None:
            if self._is_current():
                return self.view
            self.store.drop(self)
        if needs_dense and self.store.is_new_use(self):
            self.uses += 1
            if self.uses > 1 and self.store.has_room(self):
                self.store.keep(self)
        return self.source if self.view is None else self.view

    @property
    def saving(self) -> float:
        """What keeping the weight saves per byte."""
        return self.cost * self.uses / max(1, self.size)

    def compute(self) -> None:
        """Compute the dense form. One of 16 bits keeps low-rank updates apart, as products do, where a sum would lose them."""
        source = self.source
        origin = _origin(source)
        low_rank = source.dtype not in WIDE and source.active_updates() and source.factors() is not None
        with torch.no_grad(), without_autocast(origin.tensors[0][2]):
            if low_rank:
                dense = source.effective_base()
                dense = source.base_tensor() if dense is None else dense
            else:
                wide = torch.promote_types(source.dtype, torch.float32)
                dense = source.dense(wide if source.active_updates() else None).to(source.dtype)
        view = ManagedWeight(nn.Parameter(dense, requires_grad=False), source.layout)
        view.training = source.training
        if low_rank:
            names = [name for name in source.active if source.updates[name] in source.active_updates()]
            view.updates = source.updates
            view.activate(tuple(names), source.weights)
        self.view, self._origin = view, origin

    def forget(self) -> None:
        """Free the dense form."""
        self.view = self._origin = None

    def _is_current(self) -> bool:
        """Return whether nothing has changed that the dense form was computed from."""
        origin, source = self._origin, self.source
        if origin is None or _state(source) != origin.state or source.dtype is not origin.dtype:
            return False
        for where, name, tensor, version in origin.tensors:
            if where.get(name) is not tensor or tensor._version != version:
                return False
        return origin.tensors[0][2].device == origin.device


class KeptWeights:
    """The managed weights of a module whose dense forms may be kept, within a limit in bytes.

    Attributes:
        limit: Bytes that all dense forms may take.
        used: Bytes that they take.
    """

    def __init__(self, limit: float) -> None:
        self.limit, self.used = limit, 0
        self._kept: list[KeptWeight] = []
        self._last: KeptWeight | None = None
        self._looks = 0

    def slots(self, weights: dict[ManagedWeight, ManagedWeight]) -> dict[ManagedWeight, KeptWeight]:
        """Return those of the weights for which there is something to save, by what is looked up.

        Args:
            weights: By the managed weight, what is in force in its place.
        """
        found = {key: KeptWeight(one, self) for key, one in weights.items() if _may_keep(one)}
        return {key: slot for key, slot in found.items() if slot.cost and slot.size}

    def is_new_use(self, slot: KeptWeight) -> bool:
        """Return whether a weight is looked at by another operation than before, as far as can be told."""
        same = slot is self._last and self._looks < LOOKS
        self._looks = self._looks + 1 if same else 1
        self._last = slot
        return not same

    def has_room(self, slot: KeptWeight) -> bool:
        """Return whether a weight can be kept, after others that save much less have made room for it."""
        missing = self.used + slot.size - self.limit
        if missing <= 0:
            return True
        lesser = sorted((one for one in self._kept if MUCH * one.saving < slot.saving), key=lambda one: one.saving)
        if sum(one.size for one in lesser) < missing:
            return False
        for one in lesser:
            if self.used + slot.size > self.limit:
                self.drop(one)
        return True

    def keep(self, slot: KeptWeight) -> None:
        """Keep a weight; where memory ends, no more are kept from now on."""
        try:
            slot.compute()
        except torch.OutOfMemoryError:
            slot.forget()
            self.limit = self.used
            return
        self._kept.append(slot)
        self.used += slot.size

    def drop(self, slot: KeptWeight) -> None:
        """Free one weight."""
        slot.forget()
        self._kept.remove(slot)
        self.used -= slot.size

    def clear(self) -> None:
        """Free all."""
        for slot in list(self._kept):
            self.drop(slot)
        self._last = None


def _may_keep(source: ManagedWeight) -> bool:
    """Return whether a weight is whole, in memory, and the same at every use."""
    parts = (source, *source.modules())
    if any(HOOK in one.__dict__ for one in parts) or source.device.type == "meta":
        return False
    tensors = [one[2] for one in _tensors(source)]
    if not tensors or any(one.is_inference() or hasattr(one, "full_tensor") for one in tensors):
        return False
    return not (source.training and any(update.dropout for update in source.active_updates()))


def _state(source: ManagedWeight) -> tuple[int, ...]:
    """Return what is active and merged, as the identities of objects that a kept weight's origin holds on to."""
    used, shares, replacing = source._updates_in_use, source._shares, source._replacing
    merged, packed = source._parameters["merged"], source._modules["merged_packed"]
    return id(used), id(shares), id(replacing), id(merged), id(packed)


def _tensors(source: ManagedWeight) -> list[tuple[dict[str, Tensor | None], str, Tensor]]:
    """Return every tensor that the weight may depend on, with where it is found."""
    bases = (source, *(source._modules[name] for name in ("packed", "merged_packed") if source._modules.get(name)))
    updates = [part for update in (*source._updates_in_use, *source._replacing) for part in update.modules()]
    return [
        (where, name, tensor)  # type: ignore[misc]
        for part in (*bases, *updates)
        for where in (part._parameters, part._buffers)  # type: ignore[union-attr]
        for name, tensor in where.items()
        if tensor is not None
    ]


def _origin(source: ManagedWeight) -> _Origin:
    tensors = tuple((where, name, tensor, tensor._version) for where, name, tensor in _tensors(source))
    held = source._updates_in_use, source._shares, source._replacing
    return _Origin(_state(source), held, tensors, source.dtype, tensors[0][2].device)
