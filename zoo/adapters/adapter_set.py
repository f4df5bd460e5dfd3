"""The adapters of a module: which exist, which are active and with which weights, and which are merged."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from torch import nn

from zoo.adapters.base_training import BaseTraining
from zoo.adapters.buffers import Buffers
from zoo.adapters.offloaded import refuse_offloaded
from zoo.adapters.prepared import PreparedAdapter
from zoo.adapters.updates import for_biases
from zoo.catalog.entry import Entry
from zoo.errors import AdapterError, UnknownNameError, did_you_mean
from zoo.methods.config import Adapter, check_weight
from zoo.plugin.quantize import Packer
from zoo.storage.fingerprint import Fingerprint
from zoo.torch_state.turns import shared_turns
from zoo.weights.foreign.adopt import give_all_back
from zoo.weights.managed_weight import ManagedWeight, WeightMerge
from zoo.weights.parameters import replace_parameter, restore_parameter
from zoo.weights.readings import reading_together
from zoo.weights.scheme import Quantization
from zoo.weights.walk import TiedGroup, is_within, managed_weights, outdated, tied_groups, unwrapped

P = ParamSpec("P")
R = TypeVar("R")


def _alone(method: Callable[Concatenate[AdapterSet, P], R]) -> Callable[Concatenate[AdapterSet, P], R]:
    """Let a method run while no other thread uses the module."""

    @functools.wraps(method)
    def changing(self: AdapterSet, *args: P.args, **kwargs: P.kwargs) -> R:
        with self.turns.changing():
            return method(self, *args, **kwargs)

    return changing


class AdapterSet:
    """The adapters of one module, with what operations on them need to know about the model.

    Attributes:
        module: The module.
        entry: The registry entry that it was loaded from.
        device: The module's device.
        dtype: The compute dtype.
        scheme: How the weights are quantized; None for the checkpoint's own precision.
        base: What the weights were when they were loaded, or when the last adapter came; None on `meta`.
        configs: Every adapter's configuration, by name.
        weights: The active adapters, in order, each with the weight that scales its effect.
        merged: The adapters that are currently merged into the base.
        records: How each adapter was made, as in `zoo.json`.
        buffers: The persistent buffers of the base and of each adapter.
        base_training: Which parameters of the base train when there are no adapters.
        turns: Which threads use the module, and which one changes it.
    """

    def __init__(
        self,
        module: nn.Module,
        entry: Entry,
        device: torch.device,
        dtype: torch.dtype,
        scheme: Quantization | None = None,
        base: Fingerprint | None = None,
        groups: list[TiedGroup] | None = None,
    ) -> None:
        self.module = module
        self.turns = shared_turns(module, unwrapped(module))
        self.entry = entry
        self.device = device
        self.dtype = dtype
        self.scheme = scheme
        self.base = base
        self.configs: dict[str, Adapter] = {}
        self.weights: dict[str, float] = {}
        self.merged: tuple[str, ...] = ()
        self.records: dict[str, dict[str, Any]] = {}
        self.base_training = BaseTraining(tied_groups(module) if groups is None else groups)
        self._before_merge: dict[str, float] = {}  # the active adapters and their weights before the merge
        self._merge_weights: dict[str, float] = {}  # the merged adapters' weights
        self.buffers = Buffers(module)

    @property
    def active(self) -> tuple[str, ...]:
        """The names of the active adapters, in order."""
        return tuple(self.weights)

    @property
    def fingerprint(self) -> str | None:
        """The fingerprint of the base's weights; None on `meta`."""
        return None if self.base is None else self.base.hexdigest()

    @property
    def beside(self) -> tuple[str, ...]:
        """Paths of modules that are part of neither the base nor an adapter."""
        return self.buffers.ignored

    def is_beside(self, group: TiedGroup) -> bool:
        """Return whether all places of a weight are in modules that are part of neither the base nor an adapter."""
        return all(is_within(ref.path, self.beside) for ref in group.refs)

    def known(self, name: str) -> Adapter:
        """Return the configuration of an adapter.

        Raises:
            UnknownNameError: there is no adapter of this name.
        """
        if name not in self.configs:
            listed = ", ".join(self.configs) or "none"
            raise UnknownNameError(f"no adapter {name!r}; there are {listed}.{did_you_mean(str(name), self.configs)}")
        return self.configs[name]

    def unknown(self, name: str) -> None:
        """Raise `AdapterError` if there is an adapter of this name."""
        if name in self.configs:
            raise AdapterError(f"there is an adapter {name!r} already: remove it first, or choose another name")

    def pure_base(self) -> None:
        """Raise `AdapterError` if adapters are merged, so that the weights without any other are not the base's."""
        if self.merged:
            merged = ", ".join(map(repr, self.merged))
            raise AdapterError(
                f"adapter {merged} is merged, so that the weights are not the base's: model.unmerge() first"
            )

    def unmerged(self, name: str, hint: str = "model.unmerge() takes it out again") -> Adapter:
        """Return the configuration of an adapter that is not merged.

        Args:
            name: The adapter.
            hint: What to do instead, for the error.

        Raises:
            AdapterError: the adapter is merged.
            UnknownNameError: there is no adapter of this name.
        """
        config = self.known(name)
        if name in self.merged:
            raise AdapterError(f"adapter {name!r} is merged into the base: {hint}")
        return config

    @_alone
    def attach(self, prepared: PreparedAdapter, active: bool = True) -> None:
        """Attach a prepared adapter; if `active`, activate it too. The first adapter freezes the base.

        Raises:
            AdapterError: another thread has added one of its name since it was prepared.
        """
        name, updates, groups = prepared.name, prepared.updates, prepared.groups
        self.unknown(name)
        if groups is None or outdated(groups):
            groups = tied_groups(self.module)
        self._note_base(groups)
        if not self.configs:
            self.buffers.watched = True
            self.base_training.freeze(groups)
        if any(update.changes_bias for update in updates.values()):
            updates = {**for_biases(groups, updates), **updates}
        for group in groups:
            if group.name in updates:
                managed = group.value if isinstance(group.value, ManagedWeight) else replace_parameter(group)
                managed.add(name, updates[group.name])
        self.configs[name] = prepared.config
        self.records[name] = dict(prepared.record or {})
        self.buffers.own[name] = dict(prepared.buffers)
        self.apply({**self.weights, name: 1.0} if active else self.weights, groups, trained=(name,))

    def _note_base(self, groups: list[TiedGroup]) -> None:
        """Note weights that have changed since the module was loaded: an adapter's base is what it is when it comes."""
        if self.base is None:
            return
        plain = {group.name: group.value for group in groups if isinstance(group.value, nn.Parameter)}
        beside = {group.name for group in groups if self.is_beside(group)} if self.beside else set()
        self.base.renew({group.name: None if group.name in beside else plain.get(group.name) for group in groups})

    @_alone
    def activate(self, names: Sequence[str], weights: Sequence[float] | None) -> None:
        """Activate exactly these adapters, in this order; with none the module is the base exactly.

        Raises:
            AdapterError: a name or weight is not valid, or none is given and adapters are merged; nothing has changed.
        """
        if not names:
            self.pure_base()
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
            raise AdapterError(f"weights: expected each adapter once, got {', '.join(names)}")
        self.apply({name: check_weight(name, weight) for name, weight in zip(names, weights, strict=True)})

    @_alone
    def apply(
        self,
        weights: Mapping[str, float],
        groups: list[TiedGroup] | None = None,
        trained: Collection[str] | None = None,
    ) -> None:
        """Activate exactly these adapters, which must exist.

        Args:
            weights: The adapters, in order, with their weights.
            groups: The module's parameters, if a walk has just found them.
            trained: The adapters that shall train if they are active, and not otherwise; None for all of them. What the
                parameters of others do stays as it is.
        """
        names = tuple(weights)
        for group in tied_groups(self.module) if groups is None else groups:
            if isinstance(group.value, ManagedWeight):
                group.value.activate(names, weights)
                for name, update in group.value.updates.items():
                    if trained is not None and name not in trained:
                        continue
                    trains = weights.get(name, 0.0) != 0.0  # an adapter without effect does not train
                    if trains != any(parameter.requires_grad for parameter in update.parameters()):
                        update.requires_grad_(trains)
        self.weights = dict(weights)
        self.show_buffers(weights)

    def show_buffers(self, weights: Mapping[str, float]) -> None:
        """Give the persistent buffers their values under these adapters and the merged ones."""
        self.buffers.show({**self._merge_weights, **weights})

    @_alone
    def remove(self, name: str) -> None:
        """Remove an adapter."""
        self.unmerged(name, "model.unmerge() first, or model.unload()")
        if set(self.configs) == {name} and not self.base_training.never:
            refuse_offloaded(self.module, "remove the last adapter", followed=True)
        for group in tied_groups(self.module):
            managed = group.value
            if isinstance(managed, ManagedWeight):
                managed.remove(name)
                # A weight with its original dense base and no adapters becomes a plain parameter again.
                if managed.base is not None and managed.dense_parameter() is managed.base and not managed.updates:
                    restore_parameter(group, managed.base)
        del self.configs[name]
        self.weights.pop(name, None)
        self.records.pop(name, None)
        self.show_buffers(self.weights)
        self.buffers.own.pop(name, None)
        if not self.configs:
            self.buffers.reset()
        if not self.configs and not self.base_training.never:
            self.base_training.give_back(self.module)

    @_alone
    def merge(
        self, names: Sequence[str], pack: Packer | None = None
    ) -> tuple[dict[str, float], dict[str, WeightMerge]]:
        """Merge adapters into the weights: active ones with their weights, others with weight 1.

        Everything is computed before anything changes.

        Args:
            names: The adapters; none for the active ones.
            pack: Returns how to store a merged weight; None for dense.

        Returns:
            The adapters' weights, and the merge of each weight that they change.

        Raises:
            AdapterError: no adapter is named or active, one is merged already, an active one depends on the base, or
                the result is not finite.
        """
        names = tuple(dict.fromkeys(names or self.active))
        if not names:
            done = f", {', '.join(self.merged)} merged already" if self.merged else ""
            raise AdapterError(f"no adapter is active{done}: name the adapters to merge")
        for name in names:
            self.known(name)
            if name in self.merged:
                raise AdapterError(f"adapter {name!r} is merged already")
        weights = {name: self.weights.get(name, 1.0) for name in names}
        rest = {name: weight for name, weight in self.weights.items() if name not in names}
        weights_by_path, merges = managed_weights(self.module), {}
        with reading_together(self.device):
            for path, managed in weights_by_path.items():
                merge = managed.compute_merge(names, weights, None if pack is None else pack(path))
                dependent = [name for name, update in managed.updates.items() if update.takes_base and rest.get(name)]
                if merge is not None and dependent:
                    raise AdapterError(
                        f"{path}: adapter {dependent[0]!r} depends on the base, which merging {', '.join(merge.names)} "
                        "would change: merge them together, or deactivate it first"
                    )
                if merge is not None:
                    merges[path] = merge
        for path, merge in merges.items():
            if not merge.finite:
                raise AdapterError(
                    f"{path}: merging {', '.join(merge.names)} would give NaN or Inf in "
                    f"{weights_by_path[path].dtype}: it is "
                    "damaged, or its training has diverged: load another one"
                )
        self._before_merge = {**(self._before_merge if self.merged else {}), **self.weights}
        for path, merge in merges.items():
            weights_by_path[path].apply_merge(merge)
        self.merged = (*self.merged, *names)
        self._merge_weights |= weights
        self.apply(rest)
        return weights, merges

    @_alone
    def unmerge(self) -> None:
        """Undo all merges, bit for bit, and reactivate the adapters that were active before."""
        if not self.merged:
            raise AdapterError("no adapter is merged")
        for managed in managed_weights(self.module).values():
            managed.unmerge()
        still_there = {*self.merged, *self.weights}
        self.merged, self._merge_weights = (), {}
        before = {name: weight for name, weight in self._before_merge.items() if name in still_there}
        self.apply({**before, **self.weights})

    @_alone
    def unload(self) -> None:
        """Make every weight a plain parameter: merged adapters stay, all others are dropped."""
        refuse_offloaded(self.module, "unload")
        give_all_back(self.module)
        for group in tied_groups(self.module):
            managed = group.value
            if isinstance(managed, ManagedWeight):
                with torch.no_grad():
                    dense = managed.dense_parameter()
                    restore_parameter(group, nn.Parameter(managed.base_tensor()) if dense is None else dense)
        if self.configs or self.base_training.never:
            self.base_training.give_back(self.module)
        self.buffers.show(self._merge_weights)
        self.buffers.reset()
        self._merge_weights = {}
        self.configs, self.weights, self.merged, self.records = {}, {}, (), {}
        self.scheme, self.base_training.never = None, False
