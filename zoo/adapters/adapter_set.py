"""Which adapters a module has, which of them apply and how strongly, and which are merged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from zoo.adapters.updates import for_biases
from zoo.catalog.entry import Entry
from zoo.errors import AdapterError, UnknownNameError, did_you_mean
from zoo.methods.config import LARGEST, Adapter
from zoo.plugin.quantize import Packer
from zoo.weights.managed_weight import ManagedWeight, WeightMerge
from zoo.weights.parameters import replace_parameter, restore_parameter
from zoo.weights.scheme import Quantization
from zoo.weights.update import Update
from zoo.weights.walk import TiedGroup, stores, tied_groups


class PreparedAdapter(NamedTuple):
    """An adapter that is ready to be attached: nothing of it can fail any more.

    updates: by the name of each weight's first place. record: what `zoo.json` says of a saved one. groups: the
    module's parameters, from the walk that found the weights.
    """

    name: str
    config: Adapter
    updates: dict[str, Update]
    record: Mapping[str, Any] | None = None
    groups: list[TiedGroup] | None = None


class AdapterSet:
    """The adapters of one module, with what operations on them have to know of the model.

    module: the module. entry: what it was loaded from. device, dtype: where it lies, what it computes in. scheme: how
    its weights are quantized, None for as the checkpoint had them. fingerprint: of its weights, None on `meta`.
    configs: every adapter's configuration by name. weights: those that apply now, in order, each with the weight that
    scales its effect. merged: those that are part of the base for now. records: how each adapter was made, as
    `zoo.json` says it.
    """

    def __init__(
        self,
        module: nn.Module,
        entry: Entry,
        device: torch.device,
        dtype: torch.dtype,
        scheme: Quantization | None = None,
        fingerprint: str | None = None,
        groups: list[TiedGroup] | None = None,
    ) -> None:
        self.module = module
        self.entry = entry
        self.device = device
        self.dtype = dtype
        self.scheme = scheme
        self.fingerprint = fingerprint
        self.configs: dict[str, Adapter] = {}
        self.weights: dict[str, float] = {}
        self.merged: tuple[str, ...] = ()
        self.records: dict[str, dict[str, Any]] = {}
        self.base_is_frozen = False  # for good, adapters or not: a quantized base never trains
        self._trained: dict[str, bool] = {}  # what of the base trained before the first adapter froze it
        self._note_training(tied_groups(module) if groups is None else groups)
        self._before_merge: dict[str, float] = {}  # what applied then

    @property
    def active(self) -> tuple[str, ...]:
        """The names of those that apply now, in order."""
        return tuple(self.weights)

    def known(self, name: str) -> Adapter:
        """The configuration of an adapter. Raises `UnknownNameError`."""
        if name not in self.configs:
            listed = ", ".join(self.configs) or "none"
            raise UnknownNameError(f"no adapter {name!r}; there are {listed}.{did_you_mean(str(name), self.configs)}")
        return self.configs[name]

    def unmerged(self, name: str, otherwise: str = "model.unmerge() takes it out again") -> Adapter:
        """The configuration of an adapter that is not merged. Raises `AdapterError` for one that is."""
        config = self.known(name)
        if name in self.merged:
            raise AdapterError(f"adapter {name!r} is merged into the base: {otherwise}")
        return config

    def attach(self, prepared: PreparedAdapter, active: bool = True) -> None:
        """Add a prepared adapter; `active`: beside those that apply. The first one freezes the base."""
        name, updates, groups = prepared.name, prepared.updates, prepared.groups
        if groups is None or _outdated(groups):
            groups = tied_groups(self.module)
        if not self.configs:
            self.freeze_base(groups)
        if any(update.changes_bias for update in updates.values()):
            updates = {**for_biases(groups, updates), **updates}
        for group in groups:
            if group.name in updates:
                store = group.value if isinstance(group.value, ManagedWeight) else replace_parameter(group)
                store.add(name, updates[group.name])
        self.configs[name] = prepared.config
        self.records[name] = dict(prepared.record or {})
        self.apply({**self.weights, name: 1.0} if active else self.weights, groups)

    def freeze_base(self, groups: list[TiedGroup], for_good: bool = False) -> None:
        """Let nothing of the base train, and remember what did. for_good: until `unload`, adapters or not."""
        if not self.base_is_frozen and not for_good:
            self._note_training(groups)
        for group in groups:
            for parameter in [group.value] if isinstance(group.value, nn.Parameter) else group.value.parameters():
                parameter.requires_grad_(False)
        self.base_is_frozen |= for_good

    def _note_training(self, groups: list[TiedGroup]) -> None:
        for group in groups:
            if isinstance(group.value, nn.Parameter):
                self._trained[group.name] = group.value.requires_grad

    def _thaw_base(self) -> None:
        for name, parameter in self.module.named_parameters():
            parameter.requires_grad_(self._trained.get(name, True) and parameter.is_floating_point())

    def activate(self, names: Sequence[str], weights: Sequence[float] | None) -> None:
        """Let exactly these apply, in this order. Raises `AdapterError` and then has changed nothing."""
        for name in names:
            self.unmerged(name)
        if weights is None:
            self.apply(dict.fromkeys(names, 1.0))
            return
        if isinstance(weights, str | Mapping) or not isinstance(weights, Iterable):
            raise AdapterError(
                f"weights: expected one number for each adapter, as in weights=(0.7, 0.3), got {weights!r}"
            )
        weights = tuple(weights)
        if len(weights) != len(names):
            raise AdapterError(
                f"weights: expected {len(names)} for {', '.join(names) or 'no adapter'}, got {len(weights)}"
            )
        if len(set(names)) != len(names):
            raise AdapterError(f"with weights each adapter is named once, got {', '.join(names)}")
        self.apply({name: check_weight(name, weight) for name, weight in zip(names, weights, strict=True)})

    def apply(self, weights: Mapping[str, float], groups: list[TiedGroup] | None = None) -> None:
        """Let exactly these apply, all of them known. groups: the module's parameters, where a walk has just been."""
        names = tuple(weights)
        for group in tied_groups(self.module) if groups is None else groups:
            if isinstance(group.value, ManagedWeight):
                group.value.activate(names, weights)
                for name, update in group.value.updates.items():
                    update.requires_grad_(weights.get(name, 0.0) != 0.0)  # what has no effect does not train
        self.weights = dict(weights)

    def remove(self, name: str) -> None:
        """Take an adapter away."""
        self.unmerged(name, "model.unmerge() first, or model.unload()")
        for group in tied_groups(self.module):
            store = group.value
            if isinstance(store, ManagedWeight):
                store.remove(name)
                # A weight that then has nothing special about it becomes a plain parameter again.
                if store.base is not None and store.dense_base() is store.base and not store.updates:
                    restore_parameter(group, store.base)
        del self.configs[name]
        self.weights.pop(name, None)
        self.records.pop(name, None)
        if not self.configs and not self.base_is_frozen:
            self._thaw_base()

    def merge(
        self, names: Sequence[str], pack: Packer | None = None
    ) -> tuple[dict[str, float], dict[str, WeightMerge]]:
        """Fold adapters (none named: those that apply) into the weights: active ones with their weights, others with 1.

        Returns the adapters' weights and what became of the weights that they touch. All of it is computed before
        anything changes.
        """
        names = tuple(dict.fromkeys(names or self.active))
        if not names:
            raise AdapterError("no adapter is active: name the adapters to merge")
        for name in names:
            self.known(name)
            if name in self.merged:
                raise AdapterError(f"adapter {name!r} is merged already")
        shares = {name: self.weights.get(name, 1.0) for name in names}
        rest = {name: share for name, share in self.weights.items() if name not in names}
        held, made = stores(self.module), {}
        for path, store in held.items():
            merge = store.compute_merge(names, shares, None if pack is None else pack(path))
            left = [name for name, update in store.updates.items() if update.takes_base and rest.get(name)]
            if merge is not None and left:
                raise AdapterError(
                    f"{path}: what adapter {left[0]!r} does depends on the base, which merging {', '.join(merge.names)}"
                    " would change: merge them together, or deactivate it first"
                )
            if merge is not None:
                made[path] = merge
        self._before_merge = {**(self._before_merge if self.merged else {}), **self.weights}
        for path, merge in made.items():
            held[path].apply_merge(merge)
        self.merged = (*self.merged, *names)
        self.apply(rest)
        return shares, made

    def unmerge(self) -> None:
        """Take every merged adapter out again, bit for bit; those that applied before apply again."""
        if not self.merged:
            raise AdapterError("no adapter is merged")
        for store in stores(self.module).values():
            store.unmerge()
        back = {*self.merged, *self.weights}
        self.merged = ()
        before = {name: share for name, share in self._before_merge.items() if name in back}
        self.apply({**before, **self.weights})

    def unload(self) -> None:
        """Make every weight a plain parameter: what is merged stays, adapters that are not are dropped."""
        for group in tied_groups(self.module):
            store = group.value
            if isinstance(store, ManagedWeight):
                with torch.no_grad():
                    dense = store.dense_base()
                    restore_parameter(group, nn.Parameter(store.base_tensor()) if dense is None else dense)
        if self.configs or self.base_is_frozen:
            self._thaw_base()
        self.configs, self.weights, self.merged, self.records = {}, {}, (), {}
        self.scheme, self.base_is_frozen = None, False


def _outdated(groups: list[TiedGroup]) -> bool:
    """Return whether the module has changed since the walk that found `groups`."""
    for group in groups:
        ref, value = group.refs[0], group.value
        there = ref.layer._parameters.get(ref.attribute)
        if there is None:
            there = getattr(ref.layer.__dict__.get(ref.attribute), "_zoo_store", None)
        if there is not value:
            return True
    return False


def check_weight(name: str, weight: object) -> float:
    """The weight of an adapter as a float. Raises `AdapterError` for anything but a number of a sensible size."""
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not abs(weight) <= LARGEST:
        raise AdapterError(f"the weight of {name!r}: expected a number, got {weight!r}")
    return float(weight)
