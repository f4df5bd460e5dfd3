"""Weights that another library quantized: found in a module, and named where an adapter would pass them over."""

from __future__ import annotations

import warnings

import torch
from torch import nn

from zoo.errors import AdapterError
from zoo.methods.config import Targets
from zoo.methods.targets import adaptable, matches
from zoo.plugin import hooks
from zoo.weights.foreign import table
from zoo.weights.foreign.adopt import Found, check_usable, find
from zoo.weights.foreign.weight import ForeignWeight, records_of
from zoo.weights.scheme import Quantization
from zoo.weights.walk import TiedGroup, library_modules


def foreign_weights(module: nn.Module, scheme: Quantization | None) -> list[Found]:
    """Return the weights of a module that other libraries quantized. Nothing changes.

    Raises:
        QuantizationError: `scheme` would have to store one of them in another number of bits.
    """
    found = find(module, _read)
    check_usable(found, None if scheme is None else scheme.bits)
    if scheme is not None:
        adopted = {id(one.layer) for one in found}
        others = [(path, layer) for path, layer in library_modules(module) if id(layer) not in adopted]
        _warn("not quantized", [said for path, layer in others if (said := _unknown(path, layer)) is not None])
    return found


def _read(layer: nn.Module, dtype: torch.dtype) -> list[ForeignWeight]:
    """Return what zoo, or else an installed plugin, knows of a layer's weights."""
    weights = table.read(layer, dtype)
    if (weights and weights[0].packed is not None) or (not weights and table.packed_data(layer) is None):
        return weights
    weight = hooks.foreign_weight(layer, dtype)
    return weights if weight is None else [weight]


def _unknown(path: str, layer: nn.Module) -> str | None:
    """Return what a layer of an unknown library is called in messages; None for any other layer."""
    stored = table.packed_data(layer)
    return None if stored is None else f"{path or 'the module'} ({type(layer).__name__}, {stored})"


def _warn(what: str, layers: list[str]) -> None:
    if layers:
        more = f" and {len(layers) - 5} more" if len(layers) > 5 else ""
        warnings.warn(
            f"{what}: {', '.join(layers[:5])}{more}: stored in a form that zoo does not know; load the model in full "
            "precision to have all of it",
            stacklevel=3,
        )


def check_targets(module: nn.Module, groups: list[TiedGroup], targets: Targets) -> None:
    """Say which layers an adapter passes over because their library stores them in a form that zoo cannot use.

    Layers of an unknown form cause a warning where the targets are all weights.

    Args:
        module: The module.
        groups: Its parameters.
        targets: The adapter's.

    Raises:
        AdapterError: the targets name such a layer, or all weights and the form is known, or there is nothing else.
    """
    passed: list[str] = []
    for path, layer in library_modules(module):
        for weight in [] if records_of(layer) else table.read(layer, torch.float32):
            named = matches(path, targets) or matches(f"{path}.{weight.attribute}", targets)
            if weight.packed is None and named:
                raise AdapterError(
                    f"{path or 'the module'} ({weight.form}) takes no adapter: {weight.reason}"
                    + (", or name other layers with targets=" if targets == "all" else "")
                )
        unknown = _unknown(path, layer)
        if unknown is None:
            continue
        passed.append(unknown)
        if (targets != "all" and matches(path, targets)) or not any(adaptable(group.value) for group in groups):
            raise AdapterError(
                f"{unknown} takes no adapter: expected a weight of floating-point numbers or in a form that zoo or a "
                "plugin's hook 'foreign_weight' knows: load the model in full precision"
            )
    if targets == "all":
        _warn("no adapter", passed)
