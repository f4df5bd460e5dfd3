"""Write an adapter as PEFT's configuration and state dict, with zoo's keys for parts that PEFT cannot express."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zoo.adapters.adapter_set import AdapterSet
from zoo.adapters.swap import unpadded
from zoo.errors import AdapterError
from zoo.formats.peft import config as peft_config
from zoo.formats.peft import keys
from zoo.formats.peft.keys import PREFIX, ZOO_PREFIX, Slot
from zoo.methods.config import Adapter, LoRA
from zoo.methods.dora import DoRAUpdate
from zoo.methods.full import FullUpdate
from zoo.methods.rows import RowsUpdate
from zoo.methods.targets import matches
from zoo.storage.to_host import to_host
from zoo.weights.layout import is_hf_conv1d
from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.parameters import parameter_names
from zoo.weights.update import LowRankUpdate, Update
from zoo.weights.walk import ParameterRef, is_within, library_modules, submodule, tied_groups


class Part(NamedTuple):
    """The update of one weight.

    Attributes:
        refs: the weight's places in the model; several for a tied weight.
        shape: the weight's.
        update: the adapter's update of it.
    """

    refs: list[ParameterRef]
    shape: torch.Size
    update: Update

    @property
    def name(self) -> str:
        """The name of the weight's first place."""
        return self.refs[0].name


def parts_of(module: nn.Module, name: str) -> list[Part]:
    """Return the parts of the adapter called `name`, in module order.

    Raises:
        AdapterError: this process holds only shards of them.
    """
    parts = []
    for group in tied_groups(module):
        value = group.value
        update = unpadded(value.updates[name]) if isinstance(value, ManagedWeight) and name in value.updates else None  # type: ignore[arg-type]
        # An update derived from that of another weight, as a bias's may be, has no parameters.
        if update is not None and any(True for _ in update.parameters()):
            _check_whole(group.name, value.shape, update)
            parts.append(Part(group.refs, value.shape, update))
    return parts


def _check_whole(name: str, shape: torch.Size, update: Update) -> None:
    """Raise `AdapterError` if a process holds only a shard of an update, as in `FullyShardedDataParallel`."""
    factors, dims = (update.pair(), 2 + update.stacked) if isinstance(update, LowRankUpdate) else ((), 0)
    is_shard = isinstance(update, FullUpdate) and update.weight.shape != shape
    if is_shard or any(factor.dim() != dims for factor in factors):
        raise AdapterError(
            f"{name}: this process has a shard of its adapter: save it inside "
            "FullyShardedDataParallel.summon_full_params(module), or shard with torch.distributed.fsdp.fully_shard"
        )


def to_peft(adapters: AdapterSet, name: str, parts: list[Part]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return PEFT's configuration and the state dict of an adapter.

    Args:
        adapters: the model's adapters.
        name: the adapter's name.
        parts: from `parts_of`.

    Raises:
        AdapterError: a part has no file format.
    """
    module, config = adapters.module, adapters.configs[name]
    if isinstance(config, LoRA):
        config = _plain(config)
    full = [part for part in parts if isinstance(part.update, FullUpdate)]
    rows = [part for part in parts if isinstance(part.update, RowsUpdate)]
    rest = [part for part in parts if not isinstance(part.update, FullUpdate | RowsUpdate)]
    placed = _low_rank_slots(module, config, rest) if isinstance(config, LoRA) else _other_slots(module, config, rest)
    tensors: dict[str, Tensor] = {}
    for part in rest:
        if part.name not in placed:
            tensors |= _zoo_tensors(part)
        for slot in placed.get(part.name, ()):
            tensors |= _peft_tensors(slot, part)
    chosen = [(slot, part) for part in rest for slot in placed.get(part.name, ())]
    saved = _saved_modules(module, config, full)
    tensors |= _full_tensors(module, config, full, saved, [slot for slot, _ in chosen])
    tensors |= _buffer_tensors(adapters, name, saved, [slot for slot, _ in chosen])
    for part in rows:
        tensors |= _row_tensors(module, config, part)
    if isinstance(config, LoRA):
        fields = peft_config.from_lora(module, config, [(slot, part.update) for slot, part in chosen])
    else:
        fields = peft_config.from_other(module, config, [(slot, part.name) for slot, part in chosen])
    named = [entry for entry in config.modules_to_save or () if entry not in saved.values()]
    if saved or named:
        fields["modules_to_save"] = [*saved, *named]
    if any(key.startswith(ZOO_PREFIX) for key in tensors):
        fields["peft_type"] = peft_config.ZOO_TYPE + fields["peft_type"]
    return fields, to_host(tensors)


def _plain(config: LoRA) -> LoRA:
    """Return the configuration of the ordinary LoRA, of twice the rank, that equals a PiSSA adapter."""
    if not config.changes_base:
        return config
    grown = math.sqrt(2) if config.rslora else 2
    return replace(
        config,
        rank=2 * config.rank,
        alpha=grown * config.alpha,
        rank_pattern={pattern: 2 * rank for pattern, rank in config.rank_pattern.items()},
        alpha_pattern={pattern: grown * alpha for pattern, alpha in config.alpha_pattern.items()},
        init="default",
    )


# Tensors


def _zoo_tensors(part: Part) -> dict[str, Tensor]:
    """Return an update's parameters under zoo's keys; those of a low-rank one as an ordinary LoRA's."""
    update = part.update
    named: dict[str, Tensor] = dict(update.named_parameters())
    if isinstance(update, LowRankUpdate):
        A, B = update.pair()
        named = {"lora_A": A, "lora_B": B, **({"magnitude": named["magnitude"]} if "magnitude" in named else {})}
    return {f"{ZOO_PREFIX}{part.name}.{name}": tensor for name, tensor in named.items()}


def _peft_tensors(slot: Slot, part: Part) -> dict[str, Tensor]:
    update, path = part.update, PREFIX + slot.path
    if not isinstance(update, LowRankUpdate):
        return {f"{path}.{name}": tensor for name, tensor in update.named_parameters()}
    A, B = update.pair()
    if update.stacked:
        A, B = keys.stack_to_file(A.detach(), B.detach())
        return {f"{path}.lora_A.weight": A, f"{path}.lora_B.weight": B}
    tensors = keys.factors_to_file(slot, A.detach(), B.detach(), part.shape, update.transposed)
    if isinstance(update, DoRAUpdate):
        shape = keys.magnitude_shape(slot, part.shape)
        tensors[f"{path}.lora_magnitude_vector"] = update.magnitude.detach().reshape(shape)
    return tensors


def _full_tensors(
    module: nn.Module, config: Adapter, parts: list[Part], saved: Mapping[str, str], placed: Iterable[Slot]
) -> dict[str, Tensor]:
    """Return the fully trained weights: under PEFT's keys for biases and the modules in `saved`."""
    tensors: dict[str, Tensor] = {}
    wrapped = keys.wrapped(placed)
    biases = isinstance(config, LoRA) and config.bias != "none"
    for part in parts:
        value = part.update.replacement()
        assert value is not None
        inside = all(is_within(ref.path, saved) for ref in part.refs)
        if not inside and not (biases and all(ref.attribute == "bias" and ref.path for ref in part.refs)):
            tensors |= _zoo_tensors(part)
            continue
        for ref in part.refs:
            tensors[f"{PREFIX}{keys.file_path(ref.path, wrapped, inside=True)}.{ref.attribute}"] = value
    return tensors


def _buffer_tensors(
    adapters: AdapterSet, name: str, saved: Mapping[str, str], placed: Iterable[Slot]
) -> dict[str, Tensor]:
    """Return the adapter's buffers: as PEFT all those of the modules in `saved`, and others under zoo's keys."""
    wrapped = keys.wrapped(placed)
    tensors: dict[str, Tensor] = {}
    for path in saved:
        place = keys.file_path(path, wrapped, inside=True)
        inside = adapters.buffers.within(submodule(adapters.module, path), name)
        tensors |= {f"{PREFIX}{place}.{buffer}": value for buffer, value in inside.items()}
    own = adapters.buffers.own.get(name, {})
    outside = [buffer for buffer in own if not is_within(buffer, saved)]
    return {**tensors, **{f"{ZOO_PREFIX}{buffer}": own[buffer] for buffer in outside}}


def _row_tensors(module: nn.Module, config: Adapter, part: Part) -> dict[str, Tensor]:
    """Return the trained rows of a table: under PEFT's key where PEFT computes the same."""
    first, rows = part.refs[0], dict(part.update.named_parameters())["rows"]
    layer = first.layer
    table = isinstance(layer, nn.Embedding) or (isinstance(layer, nn.Linear) and "bias" not in parameter_names(layer))
    if first.attribute != "weight" or not first.path or not table or not keys.ties_rows(module, part.refs):
        return _zoo_tensors(part)
    if isinstance(config, LoRA):
        return {f"{PREFIX}{first.path}{keys.TOKENS_LAYER}{keys.TOKENS}": rows}
    return {f"{PREFIX}{ref.path}{keys.TOKENS}": rows for ref in part.refs}


def _saved_modules(module: nn.Module, config: Adapter, parts: list[Part]) -> dict[str, str]:
    """Return path → name in the configuration of the modules for PEFT's `modules_to_save`.

    These are the modules whose parameters are all fully trained, and for tied weights the modules of the other places,
    because PEFT copies each module by itself.
    """
    replaced = {ref.name: part for part in parts for ref in part.refs}
    found: dict[str, str] = {}
    for path, layer in library_modules(module, remove_duplicate=False):
        entry = next((one for one in config.modules_to_save or () if path and matches(path, (one,))), None)
        names = [f"{path}.{name}" for name, _ in keys.parameters_of(layer)]
        if entry is None or not names or not all(name in replaced for name in names):
            continue
        if not any(path.startswith(outer + ".") for outer in found):
            found[path] = entry
            others = {ref.path for name in names for ref in replaced[name].refs}
            found |= {other: entry for other in others if other not in found and not other.startswith(path + ".")}
    return found


# Which updates PEFT can express


def _low_rank_slots(module: nn.Module, config: LoRA, parts: list[Part]) -> dict[str, list[Slot]]:
    """Return part's name → PEFT's slot for each of its places, without the parts that PEFT cannot express.

    A tied weight has one slot per place: PEFT adapts each by itself, and must do so in the same way.
    """
    able = {slot.ref.name: slot for slot in keys.slots(module).values() if not slot.reason_against()}
    plain = [part for part in parts if isinstance(part.update, LowRankUpdate)]
    chosen = {part.name for part in plain if all(_alike(able.get(ref.name), part) for ref in part.refs)}
    chosen -= _half_attentions(able, [part for part in plain if part.name in chosen])
    modules = [able[ref.name] for part in plain if part.name in chosen for ref in part.refs]
    parameters: list[str] = []
    if not config.dropout and not config.dora and not any(is_hf_conv1d(slot.ref.layer) for slot in modules):
        rest = [part for part in parts if part.name not in chosen]
        parameters = _raw_parameters(module, rest, {slot.ref.path for slot in modules})
    final = {slot.ref.name: slot for slot in keys.slots(module, parameters).values() if not slot.reason_against()}
    return {p.name: [final[s.name] for s in p.refs] for p in parts if p.name in chosen or p.name in parameters}


def _alike(slot: Slot | None, part: Part) -> bool:
    """Return whether PEFT computes the same at `slot`. It has no magnitudes in attentions, nor of columns."""
    if slot is None or not isinstance(part.update, DoRAUpdate):
        return slot is not None
    return slot.kind in ("linear", "conv", "embedding") and slot.inputs_first == part.update.transposed


def _half_attentions(able: Mapping[str, Slot], parts: list[Part]) -> set[str]:
    """Return the parts of attentions that PEFT cannot express: in_proj and out_proj must share rank and scale."""
    ranks: dict[str, list[tuple[int, float]]] = {}
    found = [(part, able[part.name]) for part in parts if able[part.name].kind in ("attention", "out_proj")]
    for part, slot in found:
        if len(part.refs) == 1 and isinstance(part.update, LowRankUpdate):
            ranks.setdefault(slot.name, []).append((part.update.rank, part.update.scale))
    whole = {path for path, pair in ranks.items() if len(pair) == 2 and pair[0] == pair[1]}
    return {part.name for part, slot in found if slot.name not in whole}


def _raw_parameters(module: nn.Module, parts: list[Part], taken: set[str]) -> list[str]:
    """Return the names of weights that PEFT's `target_parameters` adapts as zoo does.

    `taken` are the paths of modules in `target_modules`. A layer's `weight` is left out: code outside the layer that
    reads it would get it without PEFT's update, and without an error.
    """
    able = [part for part in parts if len(part.refs) == 1 and _is_called(part.refs[0], taken) and _as_matrix(part)]
    paths = [part.refs[0].path for part in able]
    names = [part.name for part in able if not any(other.startswith(part.refs[0].path + ".") for other in paths)]
    exact = {slot.ref.name for slot in keys.slots(module, names).values() if slot.is_parameter}
    return names if exact == set(names) else []


def _is_called(ref: ParameterRef, taken: set[str]) -> bool:
    """Return whether PEFT's wrapper of the layer takes effect: only the layer's forward reads the parameter."""
    layer = ref.layer
    odd = isinstance(layer, nn.RNNBase | nn.utils.parametrize.ParametrizationList)
    reads = getattr(type(layer), "forward", None) is not nn.Module.forward and not odd
    return bool(ref.path) and ref.path not in taken and reads and ref.attribute != "weight"


def _as_matrix(part: Part) -> bool:
    """Return whether the update has the orientation that PEFT gives the update of a parameter."""
    update, shape = part.update, part.shape
    if not isinstance(update, LowRankUpdate):
        return False
    if update.stacked:
        return update.transposed == keys.stack_layout(part.refs[0]).transposed
    if update.transposed:
        return False
    return (len(shape), update.split) in ((2, 1), (3, 2)) and (len(shape) == 2 or shape[0] == 1)


def _other_slots(module: nn.Module, config: Adapter, parts: list[Part]) -> dict[str, list[Slot]]:
    """Return the same as `_low_rank_slots` for the other kinds that PEFT has."""
    able = {s.ref.name: s for s in keys.slots(module).values() if keys.has_kind(config.kind, s)}
    return {p.name: [able[s.name] for s in p.refs] for p in parts if all(s.name in able for s in p.refs)}
