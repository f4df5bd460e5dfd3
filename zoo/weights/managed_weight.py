"""The store of one managed weight: its base (dense, packed or merged) and the updates of its adapters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zoo.errors import AdapterError, WeightError
from zoo.weights.layout import Layout
from zoo.weights.quantized_tensor import QuantizedTensor
from zoo.weights.update import Factors, Scaling, Update

EVERY_ONE: Mapping[str, float] = {}  # no weight is given: each adapter applies as it is


class WeightMerge(NamedTuple):
    """Adapters folded into a weight, not in place yet. The norms are Frobenius norms, computed in float32 or better.

    value: what stands for the base then, dense or packed; None where the adapters change nothing.
    base, effect, error: the norms of W, of ΔW, and of value − (W + ΔW).
    """

    names: tuple[str, ...]
    value: nn.Parameter | QuantizedTensor | None
    base: float
    effect: float
    error: float


class ManagedWeight(nn.Module):
    """Everything about one weight as plain tensors. Layers that share a weight share its store, a child of the first.

    Exactly one of `base` (a dense parameter) and `packed` is the base. `merged` or `merged_packed`, where
    present, is the weight with some adapters folded in, dense or quantized again, and stands in for the base, which
    stays untouched beside it. `updates` has one `Update` per adapter, `active` the names of those that apply now,
    in order, each with a weight that scales its whole effect.
    """

    merged_packed: QuantizedTensor | None

    def __init__(self, base: nn.Parameter | QuantizedTensor, layout: Layout = Layout()) -> None:  # noqa: B008 - immutable
        super().__init__()
        dense = base if isinstance(base, nn.Parameter) else None
        self.register_parameter("base", dense)
        self.packed = base if isinstance(base, QuantizedTensor) else None
        self.register_parameter("merged", None)
        self.register_module("merged_packed", None)
        self.shape = torch.Size(base.shape)
        self.layout = layout
        self.merged_names: tuple[str, ...] = ()
        self.updates = nn.ModuleDict()
        self.active: tuple[str, ...] = ()
        self._updates_in_use: tuple[Update, ...] = ()
        self.weights: dict[str, float] = {}  # of the active ones
        self._replacing: tuple[Update, ...] = ()  # at most one; in a tuple, not a child of its own
        self._shares: tuple[float, ...] = ()  # the weights of the updates in use

    @property
    def dtype(self) -> torch.dtype:
        """The type that the layer sees."""
        dense = self.dense_base()
        return dense.dtype if dense is not None else self.quantized_base().dtype

    @property
    def device(self) -> torch.device:
        """Where the base lies."""
        dense = self.dense_base()
        return dense.device if dense is not None else self.quantized_base().tensors()[0].device

    def dense_base(self) -> nn.Parameter | None:
        """The dense parameter that stands for the base now (merged, or never quantized); None where it is packed."""
        held = self._parameters
        merged = held["merged"]
        if merged is not None:
            return merged
        return held["base"] if self._modules["merged_packed"] is None else None

    def quantized_base(self) -> QuantizedTensor:
        """What is unpacked where `dense_base` is None: the base, or the weight quantized again after a merge."""
        held = self._modules
        merged = held["merged_packed"]
        return held["packed"] if merged is None else merged  # type: ignore[return-value]

    def effective_base(self) -> Tensor | None:
        """The dense tensor that the updates in use change: an active replacement, else `dense_base()`."""
        if not self._replacing:
            return self.dense_base()
        weight, dtype = self._replacing[0].replacement(), self.dtype
        return weight if weight.dtype is dtype else weight.to(dtype)  # type: ignore[union-attr]

    def is_dense(self) -> bool:
        """Whether `dense()` has nothing to compute."""
        return not self._updates_in_use and (bool(self._replacing) or self.dense_base() is not None)

    def active_updates(self) -> tuple[Update, ...]:
        """The active updates that take effect, in order: of those that replace the whole weight the last, which is
        not among these but in `effective_base()`, and what comes after it; none of weight 0."""
        return self._updates_in_use

    def base_tensor(self, dtype: torch.dtype | None = None) -> Tensor:
        """The base without any active update; the parameter itself where it is dense already."""
        dense = self.dense_base()
        if dense is not None:
            return dense if dtype is None or dense.dtype == dtype else dense.to(dtype)
        return self.quantized_base()(dtype)

    def dense(self, dtype: torch.dtype | None = None) -> Tensor:
        """The weight as its layer should see it: base and active updates, differentiable in all that trains."""
        if self._replacing:
            weight = self._replacing[0].replacement().to(dtype or self.dtype)  # type: ignore[union-attr]
        else:
            weight = self.base_tensor(dtype)
        return updated(weight, zip(self._updates_in_use, self._shares, strict=True))

    def factors(self) -> list[Factors] | None:
        """The active updates' low-rank factors, weights in their scales; None where one of them is not low-rank."""
        found = []
        for update, share in zip(self._updates_in_use, self._shares, strict=True):
            pair = update.factors()
            if pair is None:
                return None
            found.append(pair if share == 1.0 else Factors(pair.left, pair.right, share * pair.scale))
        return found

    def scaling(self) -> Scaling | None:
        """How the one active update scales outputs and inputs; None where there are others, or it does more.

        None too where several dimensions number the outputs, as operations on the weight do not see it.
        """
        if len(self._updates_in_use) != 1 or self._shares[0] != 1.0 or self.layout.split != 1:
            return None
        return self._updates_in_use[0].scaling(self._undisturbed)

    @torch.no_grad()
    def _undisturbed(self) -> Tensor:
        """The dense weight that the updates in use change, without a graph."""
        weight = self.effective_base()
        return self.base_tensor() if weight is None else weight

    def add(self, name: str, update: Update) -> None:
        """Attach an adapter's update, not yet active."""
        if name in self.updates:
            raise AdapterError(f"an adapter {name!r} is already on this weight")
        self.updates[name] = update
        update.train(self.training)

    def remove(self, name: str) -> None:
        """Take an adapter's update away; a weight without it is left as it is."""
        if name in self.updates:
            self._leave_out((name,))
            del self.updates[name]

    def activate(self, names: tuple[str, ...], weights: Mapping[str, float] = EVERY_ONE) -> None:
        """Let exactly these adapters apply, in this order; names this weight does not have are passed over.

        weights: by name, 1 where not given. An adapter of weight 0 is active and does exactly nothing.
        """
        self.weights = {name: float(weights.get(name, 1.0)) for name in names if name in self.updates}
        self.active = tuple(self.weights)
        used: list[tuple[Update, float]]
        used = [(self.updates[name], share) for name, share in self.weights.items() if share != 0.0]  # type: ignore[misc]
        replacing = [
            n
            for n, (update, share) in enumerate(used)
            if share == 1.0 and update.replaces and update.replacement() is not None
        ]
        last = max(replacing, default=-1)
        self._replacing = (used[last][0],) if last >= 0 else ()
        self._updates_in_use = tuple(update for update, _ in used[last + 1 :])
        self._shares = tuple(share for _, share in used[last + 1 :])

    def _leave_out(self, names: tuple[str, ...]) -> None:
        """Let these no longer apply, and the others as they do."""
        self.activate(tuple(name for name in self.active if name not in names), self.weights)

    @torch.no_grad()
    def compute_merge(
        self,
        names: tuple[str, ...],
        weights: Mapping[str, float] = EVERY_ONE,
        pack: Callable[[Tensor], QuantizedTensor | None] | None = None,
    ) -> WeightMerge | None:
        """The weight with adapters folded in, computed in float32 or better; None where it has none of them.

        Nothing changes yet. pack: how the sum is stored, None from it (or no pack at all) for dense in the weight's
        own type.
        """
        names = tuple(name for name in names if name in self.updates)
        if not names:
            return None
        dtype = self.dtype
        base = self.base_tensor(torch.promote_types(dtype, torch.float32))
        was_training = self.training
        self.eval()  # dropout must not be folded in
        shares = [(self.updates[name], weights.get(name, 1.0)) for name in names]
        exact = updated(base, shares)  # type: ignore[arg-type]
        self.train(was_training)
        size, effect = _norm(base), _norm(exact - base)
        if effect == 0.0 and (pack is not None or not any(share for _, share in shares)):
            return WeightMerge(names, None, size, effect, 0.0)
        value: nn.Parameter | QuantizedTensor | None = None if pack is None else pack(exact)
        if value is None:
            value = nn.Parameter(exact.to(dtype, copy=True), requires_grad=False)
        stored = value(exact.dtype) if isinstance(value, QuantizedTensor) else value
        return WeightMerge(names, value, size, effect, _norm(stored - exact))

    def apply_merge(self, merge: WeightMerge) -> None:
        """Let what `compute_merge` made stand for the base, which is kept."""
        self._leave_out(merge.names)
        self.merged_names = (*self.merged_names, *merge.names)
        if merge.value is not None:
            is_packed = isinstance(merge.value, QuantizedTensor)
            self._modules["merged_packed"] = merge.value if is_packed else None  # type: ignore[assignment]
            self._parameters["merged"] = None if is_packed else merge.value  # type: ignore[assignment]

    def merge(self, names: tuple[str, ...], weights: Mapping[str, float] = EVERY_ONE) -> None:
        """Fold adapters into a dense copy of the weight; the base itself is kept."""
        merge = self.compute_merge(names, weights)
        if merge is not None:
            self.apply_merge(merge)

    def unmerge(self) -> tuple[str, ...]:
        """Back to the base as it was, bit for bit; returns the names that had been merged."""
        names, self.merged_names = self.merged_names, ()
        self._parameters["merged"] = self._modules["merged_packed"] = None
        return names

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        # A layer that writes its weight itself (torch_geometric's Linear) has just written the dense one.
        destination.pop(prefix.removesuffix("_store."), None)
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _replicate_for_data_parallel(self) -> ManagedWeight:
        raise WeightError(
            "nn.DataParallel copies a module so that its managed weights would stay on the first device: use "
            "torch.nn.parallel.DistributedDataParallel"
        )

    def extra_repr(self) -> str:
        return f"{tuple(self.shape)}, {self.dtype}" + (f", active={', '.join(self.active)}" if self.active else "")


def updated(base: Tensor, updates: Iterable[tuple[Update, float]]) -> Tensor:
    """The weight that updates make of the base, one after the other, each with its effect scaled by a share.

    What replaces the whole weight is the base of those after it.
    """
    weight = base
    for update, share in updates:
        if share == 1.0:
            weight = update(weight, base) if update.takes_base else update(weight)
            base = weight if update.replacement() is not None else base
        elif share != 0.0:  # in 16 bits the small difference is taken in float32
            dtype = torch.promote_types(weight.dtype, torch.float32)
            wide = weight.to(dtype)
            whole = update(wide, base.to(dtype)) if update.takes_base else update(wide)
            weight = (wide + share * (whole - wide)).to(weight.dtype)
    return weight


def _norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor))
