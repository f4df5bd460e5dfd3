"""The store of one managed weight: its base (dense, packed or merged) and the updates of its adapters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import AdapterError, WeightError
from zoo.weights.packed import Packed
from zoo.weights.update import Factors, Layout, Update


def _updated(weight: Tensor, updates: Iterable[Update]) -> Tensor:
    base = weight
    for update in updates:
        weight = update(weight, base) if update.takes_base else update(weight)
    return weight


class Store(nn.Module):
    """Everything about one weight as plain tensors. Layers that share a weight share its store, a child of the first.

    Exactly one of ``base`` (a dense parameter) and ``packed`` is the base. ``merged``, where present, is the dense
    weight with some adapters folded in and stands in for the base, which stays untouched beside it. ``updates`` has
    one ``Update`` per adapter, ``active`` the names of those that apply now, in order.
    """

    def __init__(self, base: nn.Parameter | Packed, layout: Layout = Layout()) -> None:  # noqa: B008 - immutable
        super().__init__()
        dense = base if isinstance(base, nn.Parameter) else None
        self.register_parameter("base", dense)
        self.packed = base if isinstance(base, Packed) else None
        self.register_parameter("merged", None)
        self.shape = torch.Size(base.shape)
        self.layout = layout
        self.merged_names: tuple[str, ...] = ()
        self.updates = nn.ModuleDict()
        self.active: tuple[str, ...] = ()
        self._updates_in_use: tuple[Update, ...] = ()
        self._replacing: tuple[Update, ...] = ()  # at most one; in a tuple, not a child of its own

    @property
    def dtype(self) -> torch.dtype:
        """The type that the layer sees."""
        held = self._parameters
        dense = held["merged"] if held["merged"] is not None else held["base"]
        return dense.dtype if dense is not None else self._modules["packed"].dtype  # type: ignore[union-attr, return-value]

    @property
    def device(self) -> torch.device:
        """Where the base lies."""
        dense = self.plain()
        return dense.device if dense is not None else self._modules["packed"].tensors()[0].device  # type: ignore[union-attr, operator]

    def plain(self) -> nn.Parameter | None:
        """The dense parameter that stands for the base now (merged, or never quantized); None where it is packed."""
        held = self._parameters
        merged = held["merged"]
        return merged if merged is not None else held["base"]

    def whole(self) -> Tensor | None:
        """The dense tensor that the updates in use change: an active replacement, else ``plain()``."""
        if not self._replacing:
            return self.plain()
        weight, dtype = self._replacing[0].replacement(), self.dtype
        return weight if weight.dtype is dtype else weight.to(dtype)  # type: ignore[union-attr]

    def ready(self) -> bool:
        """Whether ``dense()`` has nothing to compute."""
        return not self._updates_in_use and (bool(self._replacing) or self.plain() is not None)

    def in_use(self) -> tuple[Update, ...]:
        """The active updates that take effect, in order: of those that replace the weight the last, which is not
        among these but in ``whole()``, and what comes after it."""
        return self._updates_in_use

    def base_dense(self, dtype: torch.dtype | None = None) -> Tensor:
        """The base without any active update; the parameter itself where it is dense already."""
        dense = self.plain()
        if dense is not None:
            return dense if dtype is None or dense.dtype == dtype else dense.to(dtype)
        return self._modules["packed"](dtype)  # type: ignore[misc]

    def dense(self, dtype: torch.dtype | None = None) -> Tensor:
        """The weight as its layer should see it: base and active updates, differentiable in all that trains."""
        if self._replacing:
            weight = self._replacing[0].replacement().to(dtype or self.dtype)  # type: ignore[union-attr]
        else:
            weight = self.base_dense(dtype)
        return _updated(weight, self._updates_in_use)

    def factors(self) -> list[Factors] | None:
        """The active updates' low-rank factors; None where one of them is not low-rank."""
        found = []
        for update in self._updates_in_use:
            pair = update.factors()
            if pair is None:
                return None
            found.append(pair)
        return found

    def add(self, name: str, update: Update) -> None:
        """Attach an adapter's update, not yet active."""
        if name in self.updates:
            raise AdapterError(f"an adapter {name!r} is already on this weight")
        self.updates[name] = update
        update.train(self.training)

    def remove(self, name: str) -> None:
        """Take an adapter's update away; a weight without it is left as it is."""
        if name in self.updates:
            self.activate(tuple(other for other in self.active if other != name))
            del self.updates[name]

    def activate(self, names: tuple[str, ...]) -> None:
        """Let exactly these adapters apply, in this order; names this weight does not have are passed over."""
        self.active = tuple(name for name in names if name in self.updates)
        found: list[Update] = [self.updates[name] for name in self.active]  # type: ignore[misc]
        last = max((n for n, update in enumerate(found) if update.replacement() is not None), default=-1)
        self._replacing = (found[last],) if last >= 0 else ()
        self._updates_in_use = tuple(found[last + 1 :])

    @torch.no_grad()
    def merge(self, names: tuple[str, ...]) -> None:
        """Fold adapters into a dense copy of the weight, computed in float32 or better; the base itself is kept."""
        names = tuple(name for name in names if name in self.updates)
        if not names:
            return
        dtype = self.dtype
        weight = self.base_dense(torch.promote_types(dtype, torch.float32))
        was_training = self.training
        self.eval()  # dropout must not be folded in
        weight = _updated(weight, [self.updates[name] for name in names])  # type: ignore[misc]
        self.train(was_training)
        self.activate(tuple(name for name in self.active if name not in names))
        self.merged_names = (*self.merged_names, *names)
        self.merged = nn.Parameter(weight.to(dtype, copy=True), requires_grad=False)

    def unmerge(self) -> tuple[str, ...]:
        """Back to the base as it was, bit for bit; returns the names that had been merged."""
        names, self.merged_names = self.merged_names, ()
        self._parameters["merged"] = None
        return names

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        # A layer that writes its weight itself (torch_geometric's Linear) has just written the dense one.
        destination.pop(prefix.removesuffix("_store."), None)
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _replicate_for_data_parallel(self) -> Store:
        raise WeightError(
            "nn.DataParallel copies a module so that its managed weights would stay on the first device: use "
            "torch.nn.parallel.DistributedDataParallel"
        )

    def extra_repr(self) -> str:
        return f"{tuple(self.shape)}, {self.dtype}" + (f", active={', '.join(self.active)}" if self.active else "")
