"""Write an adapter as kohya's scripts and LyCORIS do: one safetensors file, layers' paths with underscores for dots.

What these tools read is linear layers and convolutions (LoCon, with DoRA; LoHa; LoKr; whole differences), layer norms
and group norms. Everything else is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from zoo.errors import AdapterError
from zoo.formats.peft.write import Part, parts_of
from zoo.formats.spellings import DOWN, SCALE, UP
from zoo.integrations.old_names import old_names
from zoo.methods.config import Adapter
from zoo.methods.dora import DoRAUpdate
from zoo.methods.full import FullUpdate
from zoo.methods.loha_lokr import DenseUpdate
from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.update import LowRankUpdate
from zoo.weights.walk import ParameterRef, tied_groups

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.LayerNorm, nn.GroupNorm)


def tensors(module: nn.Module, config: Adapter, name: str, prefix: str) -> dict[str, Tensor]:
    """Return the tensors of an adapter.

    Args:
        module: the base model.
        config: the adapter's configuration.
        name: the adapter's name.
        prefix: what keys begin with, without the underscore after it.

    Raises:
        AdapterError: the format has no place for a part of the adapter.
    """
    parts = parts_of(module, name)
    stems = _stems(module, prefix)
    found: dict[str, dict[str, Tensor]] = {}
    changed = {ref.name: part for part in parts for ref in part.refs}
    for part in parts:
        for ref in part.refs:
            found.setdefault(stems(ref), {}).update(_values(part, ref, config, changed, module))
    made = {f"{stem}.{key}": tensor for stem, values in found.items() for key, tensor in values.items()}
    return {key: tensor.detach().to("cpu").contiguous().clone() for key, tensor in made.items()}


def _stems(module: nn.Module, prefix: str) -> Callable[[ParameterRef], str]:
    # What reads files for text encoders knows their layers by the names of transformers' earlier releases.
    earlier = {path: old for old, path in old_names(module).items()} if prefix.startswith("lora_te") else {}
    flat: dict[str, set[str]] = {}
    for group in tied_groups(module):
        for ref in group.refs:
            flat.setdefault(ref.path.replace(".", "_"), set()).add(ref.path)

    def stem(ref: ParameterRef) -> str:
        same = flat[ref.path.replace(".", "_")] - {ref.path}
        if not ref.path or same:
            why = f"{same.pop()} would have the same key" if same else "the module itself has no path"
            raise _no_place(ref.name, why)
        return f"{prefix}_{earlier.get(ref.path, ref.path).replace('.', '_')}"

    return stem


def _values(
    part: Part, ref: ParameterRef, config: Adapter, changed: dict[str, Part], module: nn.Module
) -> dict[str, Tensor]:
    """Return LyCORIS's name → tensor of the update of one weight at one place."""
    update, layer = part.update, ref.layer
    if isinstance(update, FullUpdate):
        return _difference(part, ref, changed, module)
    if isinstance(layer, NonDynamicallyQuantizableLinear) or not isinstance(layer, LAYERS) or ref.attribute != "weight":
        raise _no_place(ref.name, f"it is the {ref.attribute} of a {type(layer).__name__}")
    if isinstance(update, LowRankUpdate):
        return _low_rank(part, ref, update)
    if config.kind in ("loha", "lokr") and isinstance(update, DenseUpdate):
        return _products(ref, config, update)
    raise _no_place(ref.name, f"it has an adapter of the kind {config.kind!r}")


def _low_rank(part: Part, ref: ParameterRef, update: LowRankUpdate) -> dict[str, Tensor]:
    if update.transposed or update.split != 1:
        raise _no_place(ref.name, "it shares its weight with a layer that uses it the other way round")
    A, B = update.pair()
    ones = [1] * (len(part.shape) - 2)
    made = {DOWN: A.reshape(A.shape[0], *part.shape[1:]), UP: B.reshape(*B.shape, *ones)}
    made["alpha"] = torch.tensor(float(update.scale * A.shape[0]))
    if isinstance(update, DoRAUpdate):
        made[SCALE] = update.magnitude.reshape(-1, 1, *ones)
    return made


def _products(ref: ParameterRef, config: Any, update: DenseUpdate) -> dict[str, Tensor]:
    """Return the factors of a LoHa or LoKr, whose names are the same; a core has the dimensions of the kernel."""
    made: dict[str, Tensor] = dict(update.named_parameters())
    flat = len(update.shape) == 3
    if flat and "lokr_w2" in made:
        raise _no_place(
            ref.name, "LyCORIS multiplies a whole lokr_w2 on a one-dimensional convolution in another order"
        )
    made = {key: one.squeeze(-1) if flat and key[-2:] in ("t1", "t2") else one for key, one in made.items()}
    rank = config.rank_of(ref.path)
    if {"lokr_w1", "lokr_w2"} <= made.keys() and update.scale != 1:  # LyCORIS ignores the alpha of these
        return {**made, "lokr_w1": made["lokr_w1"] * update.scale, "alpha": torch.tensor(float(rank))}
    return {**made, "alpha": torch.tensor(float(update.scale * rank))}


def _difference(part: Part, ref: ParameterRef, changed: dict[str, Part], module: nn.Module) -> dict[str, Tensor]:
    layer = ref.layer
    if not isinstance(layer, LAYERS + NORMS) or ref.attribute not in ("weight", "bias"):
        raise _no_place(ref.name, f"it is the {ref.attribute} of a {type(layer).__name__}, trained whole")
    weight = changed.get(f"{ref.path}.weight")
    if ref.attribute == "bias" and weight is not None and not isinstance(weight.update, FullUpdate):
        raise _no_place(ref.name, "its layer has factors, and LyCORIS reads no bias beside them")
    names = {"weight": "w_norm", "bias": "b_norm"} if isinstance(layer, NORMS) else {"weight": "diff", "bias": "diff_b"}
    base = next(group.value for group in tied_groups(module) if group.name == part.name)
    replaced = part.update.replacement()
    assert replaced is not None
    before = base.base_tensor(replaced.dtype) if isinstance(base, ManagedWeight) else base.to(replaced.dtype)
    made = {names[ref.attribute]: replaced.detach() - before.detach()}
    # LyCORIS knows a layer by the difference of its weight, and reads that of a norm's bias always.
    other = "weight" if ref.attribute == "bias" else "bias"
    needed = other == "weight" or isinstance(layer, NORMS)
    if needed and f"{ref.path}.{other}" not in changed and getattr(layer, other, None) is not None:
        made[names[other]] = torch.zeros(getattr(layer, other).shape)
    return made


def _no_place(name: str, why: str) -> AdapterError:
    return AdapterError(f"{name}: kohya's format has no place for its update: {why}; save it with format='peft'")
