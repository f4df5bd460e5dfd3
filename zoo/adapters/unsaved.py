"""Find what a file would leave out in silence: weights that train, or have changed, and are in no adapter."""

from __future__ import annotations

from torch import nn

from zoo.adapters.adapter_set import AdapterSet
from zoo.errors import AdapterError
from zoo.storage.fingerprint import readable
from zoo.weights.walk import TiedGroup, tied_groups


def check_trained(adapters: AdapterSet, groups: list[TiedGroup] | None = None) -> None:
    """Raise `AdapterError` if there are adapters, and a weight trains that is in none of them."""
    if not adapters.configs:
        return
    groups = tied_groups(adapters.module) if groups is None else groups
    trained = [group for group in groups if isinstance(group.value, nn.Parameter) and group.value.requires_grad]
    names = [group.name for group in trained if not adapters.is_beside(group)]
    if names:
        modules = sorted({name.rpartition(".")[0] or name for name in names})
        raise AdapterError(
            f"{_some(names)}: expected every weight that trains to be in an adapter, got {len(names)} in none, which "
            f"would be lost: add the adapter after the change, with modules_to_save={modules[:3]!r}, or freeze "
            "them, or say model.train_beside(...) of modules that are no part of it"
        )


def check_base(adapters: AdapterSet) -> None:
    """Raise `AdapterError` if a weight trains, or has changed since the adapters came, and is in none of them."""
    groups = tied_groups(adapters.module)
    check_trained(adapters, groups)
    base = adapters.base
    present = {ref.name for group in groups for ref in group.refs}
    gone = [] if base is None else [name for name in base.names() if name not in present]
    if gone:
        raise AdapterError(
            f"{_some(gone)}: expected the base as it was when its adapters came, got a module without it: change the "
            "module before the adapter is added"
        )
    if base is None:
        return
    own = [group for group in groups if not adapters.is_beside(group)]
    fits = {group.name for group in own if group.name in base and base.shape(group.name) == tuple(group.value.shape)}
    looked_at = {group.name: group.value for group in own if group.name in fits and _shows_changes(group)}
    changed = looked_at.keys() - base.held(looked_at)  # type: ignore[arg-type]
    for group in own:
        value, name = group.value, group.name
        if name in fits and name not in changed:
            continue
        if name in fits:
            got = "other values"
        else:
            before = f"was {base.shape(name)}" if name in base else "was not there"
            got = f"shape {tuple(value.shape)}, it {before}"
        raise AdapterError(
            f"{name}: expected the base as it was when its adapters came, got {got}, which no adapter holds: change "
            "the module before the adapter is added, and name what it trains: modules_to_save= for whole modules, "
            "trainable_token_indices= for rows of an embedding"
        )


def _shows_changes(group: TiedGroup) -> bool:
    """Return whether a weight's values are here and those of the base, unless somebody has changed them."""
    renormed = any(getattr(ref.layer, "max_norm", None) is not None for ref in group.refs)  # at every look-up
    return isinstance(group.value, nn.Parameter) and not renormed and readable(group.value)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
