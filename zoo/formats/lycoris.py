"""LyCORIS's and kohya's format: LoCon, LoHa and LoKr under a layer's path with underscores for dots.

`lycoris_<path>.lora_down.weight`, `.lora_up.weight`, `.alpha` (default: the rank); kohya's begin with `lora_unet_`.
`.dora_scale` is the magnitude of each output, `.scalar` one more factor, `.lora_mid.weight` the core of a Tucker
decomposition, which is multiplied into the first factor (arXiv 2309.14859, appendix B).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import AdapterError
from zoo.formats.low_rank import FlatPaths, configuration
from zoo.formats.peft import keys
from zoo.formats.peft.keys import PREFIX, ZOO_PREFIX, Slot
from zoo.methods.loha_lokr import factorize
from zoo.weights.walk import library_modules

_KEY = re.compile(r"(?P<prefix>lycoris|lora_unet|lora_transformer|lora_prior_unet|lora)_(?P<flat>[^.]+)\.(?P<what>.+)")
_KINDS = {"lora_up.weight": "LORA", "hada_w1_a": "LOHA", "lokr_w1": "LOKR", "lokr_w1_a": "LOKR"}
_PARTS = {
    "LORA": {"lora_up.weight", "lora_down.weight", "lora_mid.weight"},
    "LOHA": {f"hada_{name}" for name in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")},
    "LOKR": {f"lokr_{name}" for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")},
}
_SHARED = {"alpha", "dora_scale", "scalar"}


def recognises(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether a file's keys are LyCORIS's or kohya's."""
    return any(_KEY.fullmatch(key) for key in tensors)


def translate(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], module: nn.Module
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return PEFT's configuration and state dict.

    Args:
        tensors: the file's.
        metadata: of the file's header; not used.
        module: the base model.

    Raises:
        AdapterError: a key is unknown or of no layer of `module`, or zoo cannot express the adapter.
    """
    parts, kind = _layers(tensors, FlatPaths(module))
    layers, slots = dict(library_modules(module, remove_duplicate=False)), keys.slots(module)
    found: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    for path, part in parts.items():
        unexpected = sorted(set(part) - _PARTS[kind] - _SHARED)
        if unexpected:
            raise AdapterError(
                f"{path}: unexpected {unexpected[0]!r}, which zoo does not read in a {kind} of LyCORIS's"
            )
        ranks[path] = _rank(kind, path, part)
        alphas[path] = _number(path, "alpha", part["alpha"]) if "alpha" in part else float(ranks[path])
        if not alphas[path] or {"lokr_w1", "lokr_w2"} <= set(part):  # 0 means the rank; full factors have no rank
            alphas[path] = float(ranks[path])
        scalar = _number(path, "scalar", part["scalar"]) if "scalar" in part else 1.0
        named = _low_rank(path, part) if kind == "LORA" else _products(kind, path, part, layers[path])
        first = "lora_B.weight" if kind == "LORA" else next(iter(named))
        named[first] = named[first] * scalar if scalar != 1 else named[first]
        if "dora_scale" in part:
            named["lora_magnitude_vector"] = _magnitude(kind, path, part["dora_scale"], layers[path])
        found |= _keys(slots[path], named) if kind == "LORA" else {f"{PREFIX}{path}.{n}": t for n, t in named.items()}
    dora = [path for path, part in parts.items() if "dora_scale" in part]
    if dora and len(dora) < len(parts):
        raise AdapterError(f"{dora[0]} has a dora_scale and other layers have none, which zoo does not read")
    return _configuration(kind, ranks, alphas, parts, layers, bool(dora)), found


def _layers(tensors: Mapping[str, Tensor], paths: FlatPaths) -> tuple[dict[str, dict[str, Tensor]], str]:
    """Return the tensors of each layer by its path, and their kind."""
    parts: dict[str, dict[str, Tensor]] = {}
    prefixes: dict[str, str] = {}
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise AdapterError(f"unexpected key {key!r}: expected lycoris_<path>.lora_up.weight and the like")
        path = paths.resolve(match["flat"], key)
        if prefixes.setdefault(path, match["prefix"]) != match["prefix"]:
            raise AdapterError(f"{path} is written twice, as {prefixes[path]}_… and as {match['prefix']}_…")
        parts.setdefault(path, {})[match["what"]] = tensor
    kinds = {path: {_KINDS[what] for what in part if what in _KINDS} for path, part in parts.items()}
    for path, kind in kinds.items():
        if len(kind) != 1:
            raise AdapterError(
                f"{path}: expected the factors of a LoCon, a LoHa or a LoKr, got {', '.join(parts[path])}"
            )
    every = {next(iter(kind)) for kind in kinds.values()}
    if len(every) > 1:
        raise AdapterError(f"layers of several kinds in one file, {' and '.join(sorted(every))}: save each alone")
    return parts, every.pop()


def _rank(kind: str, path: str, part: Mapping[str, Tensor]) -> int:
    names = {"LORA": ("lora_down.weight",), "LOHA": ("hada_w1_b",), "LOKR": ("lokr_w2_b", "lokr_w1_b")}[kind]
    for name in names:
        if name in part:
            if part[name].dim() < 2:
                raise AdapterError(f"{path}: expected a matrix as its {name}, got shape {tuple(part[name].shape)}")
            return part[name].shape[0]
    if kind == "LOKR" and {"lokr_w1", "lokr_w2"} <= set(part):
        return max(1, *part["lokr_w1"].shape[:2], *part["lokr_w2"].shape[:2])  # PEFT's smallest rank for full factors
    raise AdapterError(f"{path}: its {names[0]} is missing")


def _low_rank(path: str, part: Mapping[str, Tensor]) -> dict[str, Tensor]:
    up, down, core = part["lora_up.weight"], part["lora_down.weight"], part.get("lora_mid.weight")
    if core is not None:
        rank = down.shape[0]
        fits = core.dim() == down.dim() and tuple(core.shape[:2]) == (rank, rank) and down[0, 0].numel() == 1
        if not fits or rank > up.shape[0]:
            raise AdapterError(
                f"{path}: its lora_mid has shape {tuple(core.shape)}, which does not go with rank {rank}"
            )
        down = torch.einsum("mn...,nj->mj...", core.float(), down.flatten(1).float())
    return {"lora_A.weight": down, "lora_B.weight": up}


def _keys(slot: Slot, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return low-rank factors under PEFT's keys; under zoo's for a convolution that PEFT adapts differently.

    LyCORIS updates the weight, as zoo does, also that of a grouped, dilated or circular convolution.
    """
    if slot.kind != "conv" or not slot.reason_against():
        return {f"{PREFIX}{slot.path}.{name}": tensor for name, tensor in named.items()}
    zoo_names = {"lora_A.weight": "lora_A", "lora_B.weight": "lora_B", "lora_magnitude_vector": "magnitude"}
    flat = {name: tensor.flatten() if "vector" in name else tensor.flatten(1) for name, tensor in named.items()}
    return {f"{ZOO_PREFIX}{slot.ref.name}.{zoo_names[name]}": tensor for name, tensor in flat.items()}


def _products(kind: str, path: str, part: Mapping[str, Tensor], layer: nn.Module) -> dict[str, Tensor]:
    """Return the factors of a LoHa or LoKr; in PEFT the core of a one-dimensional kernel has one more dimension."""
    named = {name: tensor for name, tensor in part.items() if name in _PARTS[kind]}
    if isinstance(layer, nn.Conv1d):
        if "lokr_w2" in named:  # PEFT, and zoo like it, multiply it in another order
            raise AdapterError(f"{path}: LoKr with a whole lokr_w2 on a one-dimensional convolution is not read")
        named = {name: t.unsqueeze(-1) if name[-2:] in ("t1", "t2") else t for name, t in named.items()}
    return named


def _magnitude(kind: str, path: str, scale: Tensor, layer: nn.Module) -> Tensor:
    if kind != "LORA":
        raise AdapterError(f"{path}: a dora_scale on a {kind}, which zoo does not have")
    outputs, ones = layer.weight.shape[0], [1] * (scale.dim() - 1)  # type: ignore[index]
    if tuple(scale.shape) != (outputs, *ones) or scale.dim() != layer.weight.dim():  # type: ignore[operator]
        raise AdapterError(
            f"{path}: its dora_scale has shape {tuple(scale.shape)}, expected one value for each of {outputs} outputs"
        )
    return scale.flatten() if scale.dim() == 2 else scale.transpose(0, 1)


def _configuration(
    kind: str,
    ranks: Mapping[str, int],
    alphas: Mapping[str, float],
    parts: Mapping[str, Mapping[str, Tensor]],
    layers: Mapping[str, nn.Module],
    dora: bool,
) -> dict[str, Any]:
    if kind == "LORA":
        return configuration(kind, ranks, alphas, use_dora=dora)
    cores = any(name in ("hada_t1", "lokr_t2") for part in parts.values() for name in part)
    more: dict[str, Any] = {"use_effective_conv2d": cores}
    if kind == "LOKR":
        more |= {"decompose_both": any("lokr_w1_a" in part for part in parts.values())}
        more |= {"decompose_factor": _factor(parts, layers)}
    return configuration(kind, ranks, alphas, **more)


def _factor(parts: Mapping[str, Mapping[str, Tensor]], layers: Mapping[str, nn.Module]) -> int:
    """Return the `decompose_factor` that splits every layer as the file does, or raise `AdapterError`."""
    splits: list[tuple[int, int]] = []
    for path, part in parts.items():
        kernel = layers[path].weight.shape[2:].numel()  # type: ignore[index]
        w1, w2 = _shape(part, "lokr_w1", 1), _shape(part, "lokr_w2", kernel)
        splits += [(w1[0], w2[0]), (w1[1], w2[1])]
    for factor in (-1, *sorted({first for first, _ in splits})):
        if all(factorize(first * second, factor) == (first, second) for first, second in splits):
            return factor
    raise AdapterError("its layers are split into Kronecker factors in a way that no one decompose_factor gives")


def _shape(part: Mapping[str, Tensor], name: str, kernel: int) -> tuple[int, int]:
    """Return (rows, columns) of a Kronecker factor, full or decomposed, without a kernel's dimensions."""
    whole, a, b = (part.get(name + suffix) for suffix in ("", "_a", "_b"))
    if whole is not None and whole.dim() >= 2:
        return whole.shape[0], whole.shape[1]
    if whole is not None or a is None or b is None or a.dim() != 2 or b.dim() != 2:
        raise AdapterError(f"{name} is missing or no matrix")
    return (a.shape[1], b.shape[1]) if "lokr_t2" in part and name == "lokr_w2" else (a.shape[0], b.shape[1] // kernel)


def _number(path: str, what: str, tensor: Tensor) -> float:
    if tensor.numel() != 1 or not tensor.is_floating_point():
        raise AdapterError(f"{path}: expected one number as its {what}, got a tensor of shape {tuple(tensor.shape)}")
    return float(tensor)
