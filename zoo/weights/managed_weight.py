"""One managed weight: its base (dense, quantized or merged) and the updates of its adapters."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import AdapterError, WeightError
from zoo.weights.applying import apply_updates, in_order
from zoo.weights.layout import Layout
from zoo.weights.offload import HOOK, call, device_of, fetch
from zoo.weights.parts import kept_entry
from zoo.weights.quantized_tensor import QuantizedTensor
from zoo.weights.readings import later, waits
from zoo.weights.update import Factors, Scaling, Update

ALL_ONES: Mapping[str, float] = {}  # default: every adapter has weight 1


@dataclass
class WeightMerge:
    """Adapters merged into a weight, not in place yet. Norms are Frobenius norms, computed in float32 or better.

    Of weights on a device they are known when the block of `readings.reading_together` has ended.

    Attributes:
        names: The adapters.
        value: The new base, dense or quantized; None if the adapters change nothing.
        base: The norm of W.
        effect: The norm of ΔW.
        error: The norm of value − (W + ΔW).
        finite: Whether no value became NaN or infinite that was a number before.
    """

    names: tuple[str, ...]
    value: nn.Parameter | QuantizedTensor | None
    base: float = 0.0
    effect: float = 0.0
    error: float = 0.0
    finite: bool = True


class ManagedWeight(nn.Module):
    """Everything about one weight as plain tensors. Tied layers share one managed weight, a child of the first of them.

    Exactly one of `base` (a dense parameter) and `packed` (quantized) is the base. If adapters are merged, `merged` or
    `merged_packed` replaces the base, which is kept unchanged.

    Attributes:
        base: The dense base; None if it is quantized.
        packed: The quantized base; None if it is dense.
        merged: The weight with some adapters merged, dense; None without.
        merged_packed: The same, quantized again; None without.
        merged_names: The merged adapters.
        shape: The weight's shape.
        layout: How low-rank updates see the weight as a matrix.
        updates: One `Update` for each adapter.
        active: The names of the active adapters, in order.
        weights: The active adapters' weights, which scale their whole effect.
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
        self.weights: dict[str, float] = {}
        self._replacing: tuple[Update, ...] = ()  # at most one; in a tuple, so as not to be a child module
        self._shares: tuple[float, ...] = ()  # the weights of `_updates_in_use`

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the layer sees."""
        dense = self.dense_parameter()
        return dense.dtype if dense is not None else self.quantized_base().dtype

    @property
    def device(self) -> torch.device:
        """The device on which the base is used."""
        dense = self.dense_parameter()
        if dense is not None:
            return device_of(self, dense) if dense.is_meta else dense.device
        packed = self.quantized_base()
        return device_of(packed, packed._parameters[packed.names[0]])  # type: ignore[arg-type]

    def dense_parameter(self) -> nn.Parameter | None:
        """Return the current base's dense parameter, a placeholder if it is offloaded; None if it is quantized."""
        parameters = self._parameters
        merged = parameters["merged"]
        if merged is not None:
            return merged
        return parameters["base"] if self._modules["merged_packed"] is None else None

    def dense_base(self) -> Tensor | None:
        """Return the values of the current dense base (merged, or never quantized); None if it is quantized."""
        dense = self.dense_parameter()
        if HOOK in self.__dict__ and dense is not None and dense.is_meta:
            return fetch(self, "base" if dense is self._parameters["base"] else "merged", dense)
        return dense

    def quantized_base(self) -> QuantizedTensor:
        """Return the current base if `dense_base` is None: quantized, perhaps again after a merge."""
        modules = self._modules
        merged = modules["merged_packed"]
        return modules["packed"] if merged is None else merged  # type: ignore[return-value]

    def effective_base(self) -> Tensor | None:
        """Return the dense tensor that `active_updates` apply to: an active replacement, else `dense_base()`."""
        if self._replacing:
            weight, dtype = call(self._replacing[0], self._replacing[0].replacement), self.dtype
            return weight if weight.dtype is dtype else weight.to(dtype)  # type: ignore[union-attr]
        if HOOK in self.__dict__:
            return self.dense_base()
        parameters = self._parameters  # as in `dense_parameter`, which a call would cost small layers
        dense = parameters["merged"]
        return parameters["base"] if dense is None and self._modules["merged_packed"] is None else dense

    def plain(self) -> Tensor | None:
        """Return the dense tensor that is all of the weight; None if something has to be computed."""
        if self._updates_in_use:
            return None
        return self.effective_base() if self._replacing or HOOK in self.__dict__ else self.dense_parameter()

    def is_dense(self) -> bool:
        """Return whether `dense()` has nothing to compute."""
        return not self._updates_in_use and (bool(self._replacing) or self.dense_parameter() is not None)

    def active_updates(self) -> tuple[Update, ...]:
        """Return the active updates that have an effect, in order.

        If any of them replace the whole weight, the last of those is not among these but in `effective_base()`, and
        only the updates after it follow here. Updates of weight 0 are left out.
        """
        return self._updates_in_use

    def kept_entry(self, index: int) -> Tensor | None:
        """Return a copy of one matrix of a stack if it is dequantized already; None if it has to be computed."""
        whole = self.shape
        if self._updates_in_use or self._replacing or len(whole) < 3 or not 0 <= index < whole[0]:
            return None
        if torch.compiler.is_compiling() or self.dense_parameter() is not None:
            return None
        return kept_entry(self.quantized_base(), index)

    def base_tensor(self, dtype: torch.dtype | None = None) -> Tensor:
        """Return the base without any active update; the parameter itself if it is dense already."""
        dense = self.dense_base()
        if dense is not None:
            return dense if dtype is None or dense.dtype == dtype else dense.to(dtype)
        return self.quantized_base()(dtype)

    def dense(self, dtype: torch.dtype | None = None) -> Tensor:
        """Return the weight as its layer sees it: base and active updates, differentiable in everything that trains."""
        if self._replacing:
            replacement = call(self._replacing[0], self._replacing[0].replacement)
            weight = replacement.to(dtype or self.dtype)  # type: ignore[union-attr]
        else:
            weight = self.base_tensor(dtype)
        return apply_updates(weight, zip(self._updates_in_use, self._shares, strict=True))

    def factors(self) -> list[Factors] | None:
        """Return the active updates' low-rank factors, weights in their scales; None if one is not low-rank."""
        factors = []
        for update, weight in zip(self._updates_in_use, self._shares, strict=True):
            own = call(update, update.factors)
            if own is None:
                return None
            factors.append(own if weight == 1.0 else Factors(own.left, own.right, weight * own.scale))
        return factors

    def scaling(self) -> Scaling | None:
        """Return how the one active update scales outputs and inputs.

        None if there are others, if it does more, or if several dimensions index the outputs, which operations on the
        weight do not support.
        """
        if len(self._updates_in_use) != 1 or self._shares[0] != 1.0:
            return None
        if self.layout.split != 1 or self.layout.stacked:
            return None
        update = self._updates_in_use[0]
        return call(update, update.scaling, self._detached_base)

    def only_update(self) -> Update | None:
        """Return the one active update, if there is no other and its weight is 1."""
        shares = self._shares
        return self._updates_in_use[0] if len(shares) == 1 and shares[0] == 1.0 else None

    @torch.no_grad()
    def _detached_base(self) -> Tensor:
        """Return the dense weight that the active updates apply to, without a graph."""
        weight = self.effective_base()
        return self.base_tensor() if weight is None else weight

    def add(self, name: str, update: Update) -> None:
        """Attach an adapter's update, not yet active."""
        if name in self.updates:
            raise AdapterError(f"an adapter {name!r} is already on this weight")
        self.updates[name] = update
        update.train(self.training)

    def remove(self, name: str) -> None:
        """Remove an adapter's update, if there is one."""
        if name in self.updates:
            self._deactivate((name,))
            del self.updates[name]

    def activate(self, names: tuple[str, ...], weights: Mapping[str, float] = ALL_ONES) -> None:
        """Activate exactly these adapters, in this order.

        Args:
            names: The adapters; those that this weight does not have are skipped.
            weights: Weights by name, 1 by default. An adapter of weight 0 is active and does exactly nothing.
        """
        self.weights = {name: float(weights.get(name, 1.0)) for name in names if name in self.updates}
        self.active = tuple(self.weights)
        used = in_order((self.updates[name], w) for name, w in self.weights.items() if w != 0.0)  # type: ignore[misc]
        replacing = [
            n
            for n, (update, weight) in enumerate(used)
            if weight == 1.0 and update.replaces and update.replacement() is not None
        ]
        last = max(replacing, default=-1)
        self._replacing = (used[last][0],) if last >= 0 else ()
        self._updates_in_use = tuple(update for update, _ in used[last + 1 :])
        self._shares = tuple(weight for _, weight in used[last + 1 :])

    def view(self, names: tuple[str, ...], weights: Mapping[str, float] = ALL_ONES) -> ManagedWeight:
        """Return the same weight with these adapters active; it shares everything else with this one.

        Args:
            names: As in `activate`.
            weights: As in `activate`.
        """
        view = type(self).__new__(type(self))
        view.__dict__.update(self.__dict__)  # the dicts of parameters and modules themselves, whatever comes into them
        view.activate(names, weights)
        return view

    def _deactivate(self, names: tuple[str, ...]) -> None:
        """Deactivate these adapters; the others stay as they are."""
        self.activate(tuple(name for name in self.active if name not in names), self.weights)

    @torch.no_grad()
    def compute_merge(
        self,
        names: tuple[str, ...],
        weights: Mapping[str, float] = ALL_ONES,
        pack: Callable[[Tensor], QuantizedTensor | None] | None = None,
    ) -> WeightMerge | None:
        """Return the weight with adapters merged, computed in float32 or better; None if it has none of them.

        Nothing changes yet.

        Args:
            names: The adapters.
            weights: Their weights, 1 by default.
            pack: Quantizes the sum; without it, or if it returns None, the sum is stored dense in the weight's own
                dtype.
        """
        names = tuple(name for name in names if name in self.updates)
        if not names:
            return None
        dtype = self.dtype
        base = self.base_tensor(torch.promote_types(dtype, torch.float32))
        was_training = self.training
        self.eval()  # dropout must not be merged
        updates = in_order((self.updates[name], weights.get(name, 1.0)) for name in names)  # type: ignore[misc]
        exact = apply_updates(base, updates)
        value: nn.Parameter | QuantizedTensor | None = None
        if pack is None and updates[-1][0].last and updates[-1][1] == 1.0:
            # From what the forward pass computes, in its own dtype, so that it goes on with the same values.
            kept = updates[-1][0].stored(apply_updates(self.base_tensor(), updates[:-1]))
            exact, value = (exact, None) if kept is None else (kept(base.dtype), kept)
        self.train(was_training)
        moves = any(weight for _, weight in updates)  # adapters of weight 0 leave the weight as it is
        norms = [torch.linalg.vector_norm(base), torch.linalg.vector_norm(exact - base)]
        if not waits() and not norms[1] and (pack is not None or not moves):
            return WeightMerge(names, None, float(norms[0]))
        value = value if pack is None else pack(exact)
        if value is None:
            value = nn.Parameter(exact.to(dtype, copy=True), requires_grad=False)
        stored = value(exact.dtype) if isinstance(value, QuantizedTensor) else value
        norms.append(torch.linalg.vector_norm(stored - exact))
        merge = WeightMerge(names, value)
        if waits() or not all(map(torch.isfinite, norms)):
            norms.append((base.isfinite() & ~stored.isfinite()).any().to(norms[0].dtype))

        def known(found: list[float]) -> None:
            merge.base, merge.effect, merge.error = found[:3]
            merge.finite = math.isfinite(merge.effect + merge.error) or not any(found[3:])
            if merge.effect == 0.0 and (pack is not None or not moves):
                merge.value, merge.error = None, 0.0

        later(torch.stack(norms), known)
        return merge

    def apply_merge(self, merge: WeightMerge) -> None:
        """Make the result of `compute_merge` the current base; the original one is kept."""
        self._deactivate(merge.names)
        self.merged_names = (*self.merged_names, *merge.names)
        if merge.value is not None:
            is_packed = isinstance(merge.value, QuantizedTensor)
            self._modules["merged_packed"] = merge.value if is_packed else None  # type: ignore[assignment]
            self._parameters["merged"] = None if is_packed else merge.value  # type: ignore[assignment]

    def merge(self, names: tuple[str, ...], weights: Mapping[str, float] = ALL_ONES) -> None:
        """Merge adapters into a dense copy of the weight; the base itself is kept."""
        merge = self.compute_merge(names, weights)
        if merge is not None:
            self.apply_merge(merge)

    def unmerge(self) -> tuple[str, ...]:
        """Restore the base, bit for bit; return the names that had been merged."""
        names, self.merged_names = self.merged_names, ()
        self._parameters["merged"] = self._modules["merged_packed"] = None
        return names

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        # A layer that saves its weight itself (torch_geometric's Linear) has just added the dense one.
        destination.pop(prefix.removesuffix("_store."), None)
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _replicate_for_data_parallel(self) -> ManagedWeight:
        raise WeightError(
            "nn.DataParallel copies a module so that its managed weights would stay on the first device: use "
            "torch.nn.parallel.DistributedDataParallel"
        )

    def extra_repr(self) -> str:
        """Return shape, dtype and active adapters for the module's repr."""
        return f"{tuple(self.shape)}, {self.dtype}" + (f", active={', '.join(self.active)}" if self.active else "")
