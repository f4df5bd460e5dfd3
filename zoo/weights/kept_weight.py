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
from zoo.weights.products import Way, choose
from zoo.weights.update import without_autocast

# Cost of dequantizing a weight beside its values, as so many more of them: 30 µs and .2 ns a value on one CPU core, 4
# and 8 bit alike. Adding a low-rank update takes about twice as long per value as dequantizing one.
CALL = 1 << 17  # of a weight of fewer values, rows cost about what all of it does
UPDATE = 2
LOOKS = 3  # at one weight by one operation, at most: for paths of its own, and for the dense weight
MUCH = 2  # times as much another weight has to save to take a kept one's place
WIDE = (torch.float32, torch.float64)


class _Origin(NamedTuple):
    """What a kept weight was computed from. All but numbers and types is compared by identity.

    Attributes:
        used: The active updates.
        shares: Their weights.
        replacing: The update that replaces the base.
        merged: The merged base, dense.
        packed: The merged base, quantized.
        dtype: The dtype that a quantized weight is to have; None of a dense one.
        first: Dtype and device of the first tensor.
        tensors: Where each tensor is found, itself, and how often it had been written to.
    """

    used: tuple[object, ...]
    shares: tuple[float, ...]
    replacing: tuple[object, ...]
    merged: nn.Parameter | None
    packed: nn.Module | None
    dtype: torch.dtype | None
    first: tuple[torch.dtype, torch.device]
    tensors: tuple[tuple[dict[str, Tensor | None], str, Tensor, int], ...]


class KeptWeight:
    """A managed weight in a block that keeps dense weights.

    Attributes:
        source: The managed weight.
        uses: How often its dense form was needed.
        size: Bytes of its dense form; 0 where that cannot be kept.
        cost: What computing that takes each time, in values.
        view: A managed weight of the dense form; None if it is not kept.
    """

    def __init__(self, source: ManagedWeight) -> None:
        self.source = source
        self.view: ManagedWeight | None = None
        self.uses = self.size = self.cost = 0
        self._measured = False
        self._origin: _Origin | None = None

    @property
    def saving(self) -> float:
        """What keeping the weight saves per byte."""
        return self.cost * self.uses / max(1, self.size)

    def measure(self) -> None:
        """Set size and cost, once for each state of the weight."""
        if self._measured:
            return
        source, values = self.source, self.source.shape.numel()
        self._measured = True
        self.size = values * source.dtype.itemsize if _may_keep(source) else 0
        self.cost = 0 if source.dense_parameter() is not None or source._replacing else _unpacking(source)
        self.cost += UPDATE * values * len(source.active_updates())

    def compute(self) -> None:
        """Compute the dense form; in 16 bits without low-rank updates, which a sum would lose in part."""
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
        self._measured = False

    def is_current(self) -> bool:
        """Return whether nothing has changed that the dense form was computed from."""
        origin, source = self._origin, self.source
        if origin is None:
            return False
        used, shares, replacing, merged, packed, dtype, first, tensors = origin
        if (
            source._updates_in_use is not used
            or source._shares is not shares
            or source._replacing is not replacing
            or source._parameters["merged"] is not merged
            or source._modules["merged_packed"] is not packed
            or (dtype is not None and source.dtype is not dtype)
        ):
            return False
        for where, name, tensor, version in tensors:
            if where.get(name) is not tensor or tensor._version != version:
                return False
        tensor = tensors[0][2]
        return tensor.dtype is first[0] and tensor.device == first[1]


class KeptWeights:
    """The weights that are used in a block, of which dense forms may be kept, within a limit in bytes.

    Attributes:
        limit: Bytes that all dense forms may take.
        used: Bytes that they take.
    """

    def __init__(self, limit: float, module: nn.Module) -> None:
        self.limit, self.used = limit, 0
        self._module = module
        self._checked = False
        self._seen: dict[ManagedWeight, KeptWeight] = {}
        self._on_dense: dict[ManagedWeight, tuple[ManagedWeight, ManagedWeight]] = {}  # view → dense base, view of that
        self._last: KeptWeight | None = None
        self._looks = 0

    @property
    def kept(self) -> list[KeptWeight]:
        """The weights that are kept."""
        return [slot for slot in self._seen.values() if slot.view is not None]

    def now(self, managed: ManagedWeight, needs_dense: bool) -> ManagedWeight:
        """Return what to compute with in a managed weight's place: itself, or a view of its dense form.

        Args:
            managed: The weight.
            needs_dense: Whether the whole dense weight is computed if it is not kept, and not only rows of it.
        """
        if torch.is_grad_enabled():
            return managed  # what trains needs a graph
        slot = self._seen.get(managed)
        if slot is not None and slot.view is not None:
            if slot.is_current():
                return slot.view
            self.drop(slot)
        if managed.is_dense() or torch.compiler.is_compiling():  # compiled code outlives the block
            return managed
        if slot is None:
            slot = self._seen[managed] = KeptWeight(managed)
        if (needs_dense or managed.shape.numel() <= CALL) and self._is_new_use(slot):
            slot.uses += 1
            if slot.uses > 1:
                slot.measure()
                if slot.size and self.has_room(slot):
                    self.keep(slot)
        return managed if slot.view is None else slot.view

    def under(self, view: ManagedWeight, base: ManagedWeight, needs_dense: bool) -> ManagedWeight:
        """Return a view of a weight on the dense form of its base, or the view itself where that is not kept.

        Args:
            view: The weight with other adapters active.
            base: The weight without any.
            needs_dense: As in `now`.
        """
        now = self.now(base, needs_dense)
        if view is base or now is base:
            return now if view is base else view
        known = self._on_dense.get(view)
        if known is None or known[0] is not now:
            known = self._on_dense[view] = now, _on_base_of(view, now)
        return known[1]

    def _is_new_use(self, slot: KeptWeight) -> bool:
        """Return whether a weight is looked at by another operation than before, as far as can be told."""
        same = slot is self._last and self._looks < LOOKS
        self._looks = self._looks + 1 if same else 1
        self._last = slot
        return not same

    def has_room(self, slot: KeptWeight) -> bool:
        """Return whether a weight can be kept, after others that save much less have made room for it."""
        if not self._checked:
            self._checked = True
            self.limit = 0 if _is_compiled(self._module) else self.limit
        missing = self.used + slot.size - self.limit
        if missing <= 0:
            return True
        lesser = sorted((one for one in self.kept if MUCH * one.saving < slot.saving), key=lambda one: one.saving)
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
        self.used += slot.size

    def drop(self, slot: KeptWeight) -> None:
        """Free one weight."""
        self._on_dense = {view: known for view, known in self._on_dense.items() if known[0] is not slot.view}
        slot.forget()
        self.used -= slot.size

    def clear(self) -> None:
        """Free all."""
        for slot in self.kept:
            self.drop(slot)
        self._seen.clear()
        self._on_dense.clear()
        self._last = None


def _unpacking(source: ManagedWeight) -> int:
    """Return what a use of the quantized base costs beside one of the dense weight, in values.

    In tiles half of what dequantizing all of it costs: time ÷ that of a dense float32 weight, nf4, 3072 × 768, 1, 8 and
    64 rows: 1.34 1.21 1.03.
    """
    values, shape = source.shape.numel(), source.shape
    multiplies = len(shape) == 2 and hasattr(source.quantized_base().codec, "product")
    tiles = multiplies and choose(source.device, source.dtype, 1, shape[0], shape[1]) is Way.TILES
    return values // 2 if tiles else CALL + values


def _may_keep(source: ManagedWeight) -> bool:
    """Return whether a weight is whole, in memory, and the same at every use."""
    parts = (source, *source.modules())
    if any(HOOK in one.__dict__ for one in parts) or source.device.type == "meta":
        return False
    tensors = [one[2] for one in _tensors(source)]
    if not tensors or any(one.is_inference() or hasattr(one, "full_tensor") for one in tensors):
        return False
    return not (source.training and any(update.dropout for update in source.active_updates()))


def _tensors(source: ManagedWeight) -> list[tuple[dict[str, Tensor | None], str, Tensor]]:
    """Return the tensors that the weight depends on, each with where it is found.

    Of quantized data only the first: they are moved and replaced together, and never written to alone.
    """
    parts = [source, *(part for update in (*source._updates_in_use, *source._replacing) for part in update.modules())]
    found = [
        (where, name, tensor)
        for part in parts
        for where in (part._parameters, part._buffers)
        for name, tensor in where.items()
        if tensor is not None
    ]
    if source.dense_parameter() is None:
        packed = source.quantized_base()
        name = packed.names[0]
        found.insert(0, (packed._parameters, name, packed._parameters[name]))  # type: ignore[arg-type]
    return found  # type: ignore[return-value]


def _origin(source: ManagedWeight) -> _Origin:
    tensors = tuple((where, name, tensor, tensor._version) for where, name, tensor in _tensors(source))
    first = tensors[0][2]
    return _Origin(
        source._updates_in_use,
        source._shares,
        source._replacing,
        source._parameters["merged"],
        source._modules["merged_packed"],
        None if source.dense_parameter() is not None else source.dtype,
        (first.dtype, first.device),
        tensors,
    )


def _is_compiled(module: nn.Module) -> bool:
    """Return whether a part of the module is compiled: such code would keep what it was compiled with."""
    layers = module.modules()
    return any(layer._compiled_call_impl or type(layer).__name__ == "OptimizedModule" for layer in layers)


def _on_base_of(view: ManagedWeight, other: ManagedWeight) -> ManagedWeight:
    """Return a view's active adapters on the base of another weight of the same values."""
    made = type(view).__new__(type(view))
    made.__dict__.update(view.__dict__)
    made.__dict__["_parameters"] = other._parameters
    made.__dict__["_modules"] = {**other._modules, "updates": view._modules["updates"]}
    return made
