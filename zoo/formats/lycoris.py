"""Low-rank adapters, LoHa and LoKr in the parts of LyCORIS's files, which those of all tools have after `spellings`.

`lora_down.weight`, `lora_up.weight` and `alpha` (without it, and for 0, the rank); `dora_scale` is the magnitude of
each output, `scalar` one more factor, `lora_mid.weight` the core of a Tucker decomposition, which is multiplied into
the first factor (arXiv 2309.14859, appendix B); `hada_…` of LoHa, `lokr_…` of LoKr.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import AdapterError
from zoo.formats import differences
from zoo.formats.peft import config as peft_config
from zoo.formats.peft import keys
from zoo.formats.peft.keys import PREFIX, ZOO_PREFIX, Slot
from zoo.formats.spellings import (
    DIFFERENCES,
    DOWN,
    EMBEDDING_A,
    EMBEDDING_B,
    MAGNITUDE,
    MID,
    SCALE,
    UP,
    as_kernel,
    number,
    squeezed,
)
from zoo.methods.loha_lokr import factorize
from zoo.weights.walk import library_modules

_KINDS = {UP: "LORA", DOWN: "LORA", EMBEDDING_A: "LORA", "hada_w1_a": "LOHA", "lokr_w1": "LOKR", "lokr_w1_a": "LOKR"}
_PARTS = {
    "LORA": {UP, DOWN, MID, EMBEDDING_A, EMBEDDING_B, MAGNITUDE},
    "LOHA": {f"hada_{name}" for name in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")},
    "LOKR": {f"lokr_{name}" for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")},
}
_SHARED = {"alpha", SCALE, "scalar", "diff_b"}


def translate(
    layers: Mapping[str, Mapping[str, Tensor]], module: nn.Module
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return PEFT's configuration and state dict.

    Args:
        layers: layer's path → name of the part → tensor.
        module: the base model.

    Raises:
        AdapterError: parts are missing or do not fit, or zoo cannot express the adapter.
    """
    modules, slots = dict(library_modules(module, remove_duplicate=False)), keys.slots(module)
    given = {path: number(path, "alpha", part["alpha"]) for path, part in layers.items() if "alpha" in part}
    parts, kind = _adapters(layers)
    saved = differences.values(layers, modules)
    if not parts:
        return differences.alone(saved)
    found: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    for path, whole in parts.items():
        part = _shaped(slots.get(path), whole)
        ranks[path] = _rank(kind, path, part)
        alphas[path] = given.get(path, 0.0)
        if not alphas[path] or {"lokr_w1", "lokr_w2"} <= set(part):  # 0 means the rank; full factors have no rank
            alphas[path] = float(ranks[path])
        scalar = number(path, "scalar", part["scalar"]) if "scalar" in part else 1.0
        named = _low_rank(path, part) if kind == "LORA" else _products(kind, path, part, modules[path])
        first = next((name for name in ("lora_B.weight", EMBEDDING_B) if name in named), next(iter(named)))
        named[first] = named[first] * scalar if scalar != 1 else named[first]
        if MAGNITUDE in part:
            named[MAGNITUDE] = part[MAGNITUDE]
        if SCALE in part:
            named[MAGNITUDE] = _magnitude(kind, path, part[SCALE], modules[path])
        slot = slots.get(path)
        found |= _keys(slot, named) if kind == "LORA" and slot else {f"{PREFIX}{path}.{n}": t for n, t in named.items()}
    dora = [path for path, part in parts.items() if {SCALE, MAGNITUDE} & set(part)]
    if dora and len(dora) < len(parts):
        raise AdapterError(f"{dora[0]} has a dora_scale and other layers have none, which zoo does not read")
    fields = _configuration(kind, ranks, alphas, parts, modules, bool(dora))
    fields["target_modules"] = peft_config.target_modules(module, set(ranks))
    return differences.beside(module, saved, fields, found)


def _adapters(layers: Mapping[str, Mapping[str, Tensor]]) -> tuple[dict[str, Mapping[str, Tensor]], str]:
    """Return the layers that have factors, and their kind."""
    parts = {path: part for path, part in layers.items() if not part.keys() <= set(DIFFERENCES)}
    kinds = {path: {_KINDS[what] for what in part if what in _KINDS} for path, part in parts.items()}
    for path, kind in kinds.items():
        if len(kind) != 1:
            raise AdapterError(
                f"{path}: expected the factors of a LoCon, a LoHa or a LoKr, got {', '.join(parts[path])}"
            )
        (one,) = kind
        unexpected = sorted(set(parts[path]) - _PARTS[one] - _SHARED)
        if unexpected:
            raise AdapterError(f"{path}: unexpected {unexpected[0]!r}, which zoo does not read in a {one} of LyCORIS's")
    every = {next(iter(kind)) for kind in kinds.values()}
    if len(every) > 1:
        raise AdapterError(f"layers of several kinds in one file, {' and '.join(sorted(every))}: save each alone")
    return parts, every.pop() if every else ""


def _shaped(slot: Slot | None, part: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a layer's parts with the dimensions that its own weight has."""
    is_kernel = slot is not None and slot.kind == "conv"
    kernel = torch.Size(slot.ref.layer.weight.shape) if is_kernel else None  # type: ignore[union-attr, arg-type]
    shaped = {}
    for name, tensor in part.items():
        flat = squeezed(tensor)
        if name in (UP, DOWN) and kernel is not None:
            # The core of a Tucker decomposition has the kernel, and both factors have none.
            ones = torch.Size([1, flat.shape[-1], *(1 for _ in kernel[2:])])
            tensor = as_kernel(tensor, kernel if name == DOWN and MID not in part else ones)
        elif name in (UP, DOWN) and slot is not None and slot.kind == "linear":
            tensor = flat
        elif name == "lokr_w2" and kernel is not None:
            tensor = tensor.reshape(*flat.shape, *kernel[2:]) if flat.dim() == 2 and kernel[2:].numel() == 1 else tensor
        elif name.startswith(("hada_w", "lokr_w")):
            tensor = flat
        shaped[name] = tensor
    return shaped


def _rank(kind: str, path: str, part: Mapping[str, Tensor]) -> int:
    names = {"LORA": (DOWN, EMBEDDING_A), "LOHA": ("hada_w1_b",), "LOKR": ("lokr_w2_b", "lokr_w1_b")}[kind]
    for name in names:
        if name in part:
            if part[name].dim() < 2:
                raise AdapterError(f"{path}: expected a matrix as its {name}, got shape {tuple(part[name].shape)}")
            return part[name].shape[0]
    if kind == "LOKR" and {"lokr_w1", "lokr_w2"} <= set(part):
        return max(1, *part["lokr_w1"].shape[:2], *part["lokr_w2"].shape[:2])  # PEFT's smallest rank for full factors
    raise AdapterError(_missing(path, names[0]))


def _missing(path: str, name: str) -> str:
    here, there = ("B", "A") if name == DOWN else ("A", "B")
    half = f"it has a factor {here}, and {there} is missing: " if name in (UP, DOWN) else ""
    return f"{path}: {half}its {name} is missing"


def _low_rank(path: str, part: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if EMBEDDING_A in part:
        return {name: part[name] for name in (EMBEDDING_A, EMBEDDING_B) if name in part}
    if UP not in part:
        raise AdapterError(_missing(path, UP))
    up, down, core = part[UP], part[DOWN], part.get(MID)
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
    zoo_names = {"lora_A.weight": "lora_A", "lora_B.weight": "lora_B", MAGNITUDE: "magnitude"}
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
    shape = torch.Size(layer.weight.shape)  # type: ignore[arg-type]
    outputs, dimensions = shape[0], len(shape)
    if scale.dim() == 0 or scale.shape[0] != outputs or scale.numel() != outputs:
        raise AdapterError(
            f"{path}: its dora_scale has shape {tuple(scale.shape)}, expected one value for each of {outputs} outputs"
        )
    return scale.flatten() if dimensions == 2 else scale.reshape(1, outputs, *[1] * (dimensions - 2))


def _configuration(
    kind: str,
    ranks: Mapping[str, int],
    alphas: Mapping[str, float],
    parts: Mapping[str, Mapping[str, Tensor]],
    layers: Mapping[str, nn.Module],
    dora: bool,
) -> dict[str, Any]:
    if kind == "LORA":
        return peft_config.patterned(kind, ranks, alphas, use_dora=dora)
    cores = any(name in ("hada_t1", "lokr_t2") for part in parts.values() for name in part)
    more: dict[str, Any] = {"use_effective_conv2d": cores}
    if kind == "LOKR":
        more |= {"decompose_both": any("lokr_w1_a" in part for part in parts.values())}
        more |= {"decompose_factor": _factor(parts, layers)}
    return peft_config.patterned(kind, ranks, alphas, **more)


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
