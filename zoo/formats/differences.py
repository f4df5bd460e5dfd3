"""Weights and biases that a file gives as the difference from the base: LyCORIS's full training, biases and norms."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import AdapterError
from zoo.formats.peft import keys
from zoo.formats.peft.keys import PREFIX, ZOO_PREFIX
from zoo.formats.spellings import DIFFERENCES
from zoo.methods.targets import matches
from zoo.weights.lazy_weight import LazyWeight

_ATTRIBUTES = {"diff": "weight", "w_norm": "weight", "diff_b": "bias", "b_norm": "bias"}


def values(layers: Mapping[str, Mapping[str, Tensor]], modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return parameter's name → its trained value, of the parameters for which a file has a difference.

    Args:
        layers: layer's path → name of the part → tensor.
        modules: the layers by path.

    Raises:
        AdapterError: the layer has no such parameter, or one of another size.
    """
    found = {}
    for path, part in layers.items():
        for name in DIFFERENCES:
            if name in part:
                attribute = _ATTRIBUTES[name]
                if f"{path}.{attribute}" in found:
                    raise AdapterError(
                        f"{path}: unexpected {name!r}, the file has a difference of its {attribute} already"
                    )
                found[f"{path}.{attribute}"] = _sum(path, modules[path], attribute, name, part[name])
    return found


def _sum(path: str, layer: nn.Module, attribute: str, name: str, difference: Tensor) -> Tensor:
    base = getattr(layer, attribute, None)
    if not isinstance(base, Tensor | LazyWeight):
        raise AdapterError(f"{path}: the file has {name}, and the layer has no {attribute}")
    shape = torch.Size(base.shape)
    fits = difference.dim() and difference.numel() == shape.numel() and difference.shape[0] == shape[0]
    if not fits or not difference.is_floating_point():
        raise AdapterError(
            f"{path}: its {name} has shape {tuple(difference.shape)} and type {difference.dtype}, expected floats of "
            f"shape {tuple(shape)}; it was made for another model"
        )
    if base.is_meta:  # nothing to add it to
        return difference.reshape(shape)
    dtype = torch.promote_types(base.dtype, torch.float32)
    value = base.base(dtype) if isinstance(base, LazyWeight) else base.detach().to(dtype)
    return value + difference.reshape(shape).to(value)


def alone(saved: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return configuration and state dict, in zoo's form, of an adapter that is nothing but trained values."""
    names = "|".join(re.escape(name) for name in sorted(saved))
    return {"peft_type": "FULL", "targets": names}, {f"{ZOO_PREFIX}{name}.weight": one for name, one in saved.items()}


def beside(
    module: nn.Module, saved: Mapping[str, Tensor], fields: dict[str, Any], tensors: dict[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return PEFT's configuration and state dict with trained values added, as `modules_to_save`.

    These are named by their module if all that is in it was trained, else by their own names. A value that such a name
    means too and that is not in the file stays the base's.

    Args:
        module: the base model.
        saved: from `values`.
        fields: the configuration without them.
        tensors: the state dict without them.
    """
    if not saved:
        return fields, tensors
    every = dict(keys.parameters_of(module))
    named: dict[str, None] = {}
    for name in saved:
        path = name.rpartition(".")[0]
        inside = [other for other in every if other.startswith(path + ".")]
        whole = all(other in saved for other in inside) and not list(every[name].buffers())
        named[path if whole else name] = None
    wanted = tuple(named)
    rest = {}
    for name, layer in every.items():
        parts = name.split(".")
        inside_one = any(matches(".".join(parts[:end]), wanted) for end in range(1, len(parts) + 1))
        if inside_one and name not in saved:
            value = getattr(layer, parts[-1])
            rest[name] = value.base() if isinstance(value, LazyWeight) else value.detach()
    tensors = tensors | {f"{PREFIX}{name}": value for name, value in {**saved, **rest}.items()}
    return {**fields, "modules_to_save": list(named)}, tensors
