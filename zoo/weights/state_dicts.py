"""Refuse state dicts that a managed module cannot load, which torch would skip in silence with `strict=False`.

A dense weight under the library's name says nothing of which part is the base and which the adapters'. A managed
module's own state dict has the managed weights' tensors, and only those of the same adapters fit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from zoo.errors import StateDictError
from zoo.weights.lazy_weight import LazyWeight
from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.walk import SUFFIX, plain_names

_OWN = re.compile(rf"(?P<store>.+{SUFFIX})\.(?:base$|packed\.|merged$|merged_packed\.|updates\.)")
INSTEAD = (
    "load what module.state_dict() of this same module gave, or an adapter from model.save_adapter; dense weights go "
    "into the module before zoo.wrap or after model.unload()"
)


def is_own_name(name: str) -> bool:
    """Return whether a name in a state dict is that of a managed weight's tensor."""
    return _OWN.match(name) is not None


def check_loading(layer: nn.Module, root: bool = False) -> None:
    """Refuse dense weights whenever the layer loads a state dict; at most once for a layer.

    Args:
        layer: A layer with managed weights, or the whole module.
        root: Whether it is the whole module, for which a state dict of all its adapters alone is complete.
    """
    if not any(getattr(hook, "hook", None) is _check for hook in layer._load_state_dict_pre_hooks.values()):
        layer.register_load_state_dict_pre_hook(_check)
    if root:
        layer.register_load_state_dict_post_hook(_forgive)


def stop_checking(layer: nn.Module, root: bool = False) -> None:
    """Let a layer, or the whole module, load whatever it can again."""
    for key, hook in list(layer._load_state_dict_pre_hooks.items()):
        if getattr(hook, "hook", None) is _check:
            del layer._load_state_dict_pre_hooks[key]
    for key, hook in list(layer._load_state_dict_post_hooks.items()):
        if root and hook is _forgive:
            del layer._load_state_dict_post_hooks[key]


def _check(layer: nn.Module, state: Mapping[str, Any], prefix: str, *_: Any) -> None:
    """Raise `StateDictError` for what the layer, or one below it, cannot load, before anything is loaded."""
    plain = plain_names(layer)
    for name in _weights(layer):
        dense = next((prefix + one for one in (name, plain(name)) if prefix + one in state), None)
        if dense is not None:
            raise StateDictError(
                f"{dense}: Unexpected key: expected the tensors of a managed weight (quantized or with an "
                f"adapter), got a dense weight, in which base and adapters cannot be told apart: {INSTEAD}"
            )
    stores: dict[str, set[str]] | None = None
    for key in state:
        match = _OWN.match(key, len(prefix)) if key.startswith(prefix) else None
        if match is None:
            continue
        stores = _stores(layer) if stores is None else stores
        store, name = match["store"], key[match.end("store") + 1 :]
        if store not in stores:
            raise StateDictError(f"{key}: Unexpected key: {store} is no managed weight of this module: {INSTEAD}")
        if name not in stores[store] and not name.endswith("_extra_state"):
            known = ", ".join(sorted(stores[store]))
            raise StateDictError(f"{key}: Unexpected key: expected one of {known} there: {INSTEAD}")
    for store, names in (stores or {}).items():
        given = {name for name in names if f"{prefix}{store}.{name}" in state}
        merged = {name for name in names if name.startswith("merged")}
        if given & {name for name in names if name.startswith(("base", "packed"))} and not merged <= given:
            raise StateDictError(
                f"{prefix}{store}: expected merged weights, as adapters are merged here, got the base alone: "
                "model.unmerge() first"
            )


def _forgive(module: nn.Module, incompatible: Any) -> None:
    """Do not call the base missing where a state dict has all adapters and nothing of the frozen base."""
    missing = set(incompatible.missing_keys)
    stores = _stores(module)
    base = {f"{path}.{name}" for path, names in stores.items() for name in names if not name.startswith("updates.")}
    updates = tuple(f"{path}.updates." for path in stores)
    frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    if base and base <= missing <= frozen and not any(name.startswith(updates) for name in missing):
        incompatible.missing_keys.clear()


def _weights(layer: nn.Module) -> Iterator[str]:
    """Yield the library's names of the managed weights in a layer and below, each place of a tied one."""
    for path, below in layer.named_modules(remove_duplicate=False):
        for attribute, value in below.__dict__.items():
            if isinstance(value, LazyWeight) and not value._zoo_detached:
                yield f"{path}.{attribute}" if path else attribute


def _stores(layer: nn.Module) -> dict[str, set[str]]:
    """Return path → names of the tensors of every managed weight in a layer and below."""
    return {
        path: {name for name, _ in managed.state_dict(keep_vars=True).items()}
        for path, managed in layer.named_modules(remove_duplicate=False)
        if isinstance(managed, ManagedWeight)
    }
