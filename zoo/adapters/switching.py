"""Which adapters a module has, which of them apply and how strongly, and which are merged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn

from zoo.adapters import inject
from zoo.adapters.config import LARGEST, Adapter
from zoo.errors import AdapterError, UnknownNameError, did_you_mean
from zoo.weights.manage import stores
from zoo.weights.store import Merge
from zoo.weights.update import Update

if TYPE_CHECKING:
    from zoo.adapters.merging import Packer


class Plan(NamedTuple):
    """An adapter that is ready to be attached: nothing of it can fail any more."""

    name: str
    config: Adapter
    updates: dict[str, Update]
    record: dict[str, Any] | None = None  # what zoo.json said of a saved one


class Adapters:
    """The adapters of one module.

    configs: every adapter's configuration by name. weights: those that apply now, in order, each with the weight that
    scales its effect. merged: those that are part of the base for now.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.configs: dict[str, Adapter] = {}
        self.weights: dict[str, float] = {}
        self.merged: tuple[str, ...] = ()
        self._before_merge: dict[str, float] = {}  # what applied then

    @property
    def active(self) -> tuple[str, ...]:
        """The names of those that apply now, in order."""
        return tuple(self.weights)

    def known(self, name: str) -> Adapter:
        """The configuration of an adapter. Raises ``UnknownNameError``."""
        if name not in self.configs:
            listed = ", ".join(self.configs) or "none"
            raise UnknownNameError(f"no adapter {name!r}; there are {listed}.{did_you_mean(str(name), self.configs)}")
        return self.configs[name]

    def unmerged(self, name: str, otherwise: str = "model.unmerge() takes it out again") -> Adapter:
        """The configuration of an adapter that is not merged. Raises ``AdapterError`` for one that is."""
        config = self.known(name)
        if name in self.merged:
            raise AdapterError(f"adapter {name!r} is merged into the base: {otherwise}")
        return config

    def attach(self, plan: Plan, active: bool = True) -> None:
        """Add a planned adapter; ``active``: beside those that apply."""
        inject.attach(self.module, plan.name, plan.updates)
        self.configs[plan.name] = plan.config
        self.apply({**self.weights, plan.name: 1.0} if active else self.weights)

    def activate(self, names: Sequence[str], weights: Sequence[float] | None) -> None:
        """Let exactly these apply, in this order. Raises ``AdapterError`` and then has changed nothing."""
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

    def apply(self, weights: Mapping[str, float]) -> None:
        """Let exactly these apply, all of them known."""
        inject.activate(self.module, weights)
        self.weights = dict(weights)

    def remove(self, name: str) -> None:
        """Take an adapter away."""
        self.unmerged(name, "model.unmerge() first, or model.unload()")
        inject.detach(self.module, name)
        del self.configs[name]
        self.weights.pop(name, None)

    def merge(self, names: Sequence[str], pack: Packer | None = None) -> tuple[dict[str, float], dict[str, Merge]]:
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
            merge = store.folded(names, shares, None if pack is None else pack(path))
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
            held[path].put(merge)
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

    def forget(self) -> None:
        """Know of no adapter any more."""
        self.configs, self.weights, self.merged = {}, {}, ()


def check_weight(name: str, weight: object) -> float:
    """The weight of an adapter as a float. Raises ``AdapterError`` for anything but a number of a sensible size."""
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not abs(weight) <= LARGEST:
        raise AdapterError(f"the weight of {name!r}: expected a number, got {weight!r}")
    return float(weight)
