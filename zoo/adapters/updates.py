"""Create an adapter's updates, one for every weight that it changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from zoo.catalog.entry import Entry
from zoo.errors import AdapterError
from zoo.methods.config import Adapter, Full
from zoo.methods.kinds import KINDS
from zoo.methods.rows import RowsUpdate, TrainableTokens, row_groups
from zoo.methods.targets import match_parameters, match_weights
from zoo.plugin.injecting import inject
from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.update import Update
from zoo.weights.walk import TiedGroup


def make_updates(
    groups: list[TiedGroup],
    entry: Entry,
    config: Adapter,
    each: Callable[[nn.Parameter | ManagedWeight, Update], None] | None = None,
) -> dict[str, Update]:
    """Return one update for every weight that the adapter changes, by the name of the weight's first place.

    The weights that the adapter targets get updates of its kind; those in `modules_to_save` and `bias` train fully.
    Nothing is attached yet. A tied weight gets one update, which all its places share.

    Args:
        groups: The module's parameters.
        entry: The registry entry, whose architecture may create updates of its own.
        config: The adapter's configuration.
        each: Called with each weight and its update, before the next one is made.

    Raises:
        AdapterError: a target matches nothing, or no plugin implements the kind.
    """
    match = match_parameters if config.any_shape else match_weights
    chosen = match(groups, config.targets)
    updates: dict[str, Update] = {}
    if isinstance(config, TrainableTokens) or getattr(config, "trainable_token_indices", None):
        for name, (group, indices) in row_groups(groups, config).items():
            updates[name] = RowsUpdate(group.lazy(), indices)
    for group in fully_trained(groups, config, chosen):
        if group.name in updates:
            raise AdapterError(f"{group.name}: expected either rows of it to train or all of it, got both")
        updates[group.name] = _make_update(entry, group, Full(targets=(group.name,)))
    for group in chosen:
        if group.name not in updates:
            updates[group.name] = _make_update(entry, group, config)
            if each is not None:
                each(group.value, updates[group.name])
    return updates


def fully_trained(groups: list[TiedGroup], config: Adapter, chosen: list[TiedGroup]) -> list[TiedGroup]:
    """Return the weights that train fully in addition to an adapter's own updates: `modules_to_save` and `bias`.

    `bias` follows PEFT: parameters called `bias`, all of them or those of the targeted weights' layers.

    Args:
        groups: The module's parameters.
        config: The adapter's configuration.
        chosen: The weights that the adapter targets.
    """
    trained: list[TiedGroup] = []
    if config.modules_to_save:
        trained = match_parameters(groups, tuple(config.modules_to_save), "modules_to_save:")
    if config.bias == "none":
        return trained
    taken = {group.name for group in trained}
    layers = {id(ref.layer) for group in chosen if group.name not in taken for ref in group.refs}
    for group in groups:
        trains = any(
            ref.attribute == "bias" and (config.bias == "all" or id(ref.layer) in layers) for ref in group.refs
        )
        if trains and group.value.dtype.is_floating_point and group.name not in taken:
            trained.append(group)
    return trained


def _make_update(entry: Entry, group: TiedGroup, config: Adapter) -> Update:
    update = inject(entry, group.name, group.lazy(), config)
    if update is None:
        known = ", ".join(KINDS)
        raise AdapterError(
            f"no plugin makes an adapter of kind {config.kind!r} for {group.name}; zoo's own are {known}"
        )
    return update


def for_biases(groups: list[TiedGroup], updates: Mapping[str, Update]) -> dict[str, Update]:
    """Return the updates from `Update.for_bias` for the biases of the updated weights' layers, by first name."""
    biases = {(id(ref.layer), ref.attribute): group for group in groups for ref in group.refs}
    bias_updates: dict[str, Update] = {}
    for group in groups:
        update = updates.get(group.name)
        for ref in group.refs if update is not None and update.changes_bias else ():
            attribute = ref.attribute.replace("weight", "bias")
            bias = biases.get((id(ref.layer), attribute))
            if bias is None or attribute == ref.attribute or not bias.value.dtype.is_floating_point:
                continue
            bias_update = update.for_bias(bias.value.shape)  # type: ignore[union-attr]
            if bias_update is not None:
                bias_updates.setdefault(bias.name, bias_update)
    return bias_updates
