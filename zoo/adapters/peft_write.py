"""An adapter as PEFT's configuration and tensors; what PEFT cannot express lies among the tensors under zoo's keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zoo.adapters import peft_config, peft_keys
from zoo.adapters.config import Adapter, LoRA
from zoo.adapters.experts import Experts
from zoo.adapters.peft_keys import OWN, PREFIX, Slot
from zoo.adapters.targets import is_hf_conv1d
from zoo.weights.manage import Site, grouped_sites
from zoo.weights.store import Store
from zoo.weights.update import LowRank, Update


class Part(NamedTuple):
    """One weight's share of an adapter."""

    sites: list[Site]
    shape: torch.Size
    update: Update

    @property
    def name(self) -> str:
        return self.sites[0].name


def parts_of(module: nn.Module, name: str) -> list[Part]:
    """What the adapter called ``name`` does to which weights, in module order."""
    groups = ((held, sites) for held, sites in grouped_sites(module) if isinstance(held, Store))
    return [Part(sites, held.shape, held.updates[name]) for held, sites in groups if name in held.updates]  # type: ignore[arg-type]


def written(module: nn.Module, config: Adapter, parts: list[Part]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration and the tensors of an adapter's file."""
    if not isinstance(config, LoRA):
        raise NotImplementedError
    placed = _low_rank_slots(module, config, parts)
    tensors: dict[str, Tensor] = {}
    for part in parts:
        if part.name not in placed:
            tensors |= _own(part)
        for slot in placed.get(part.name, ()):
            tensors |= _low_rank(slot, part)
    raw = peft_config.from_lora(module, config, [(s, p.update) for p in parts for s in placed.get(p.name, ())])
    if any(key.startswith(OWN) for key in tensors):
        raw["peft_type"] = peft_config.OWN_TYPE + raw["peft_type"]
    return raw, {key: tensor.cpu() for key, tensor in tensors.items()}


def _own(part: Part) -> dict[str, Tensor]:
    """An update's parameters under zoo's own keys."""
    rename = {"A": "lora_A", "B": "lora_B"} if isinstance(part.update, LowRank | Experts) else {}
    named = part.update.named_parameters()
    return {f"{OWN}{part.name}.{rename.get(name, name)}": tensor.detach() for name, tensor in named}


def _low_rank(slot: Slot, part: Part) -> dict[str, Tensor]:
    update = part.update
    if isinstance(update, Experts):
        A, B = update.to_peft()
        return {f"{PREFIX}{slot.path}.lora_A.weight": A, f"{PREFIX}{slot.path}.lora_B.weight": B}
    assert isinstance(update, LowRank)
    A, B = update.A.detach(), update.B.detach()
    return peft_keys.factors_to_file(slot, A, B, part.shape, update.transposed)


# Which low-rank updates PEFT can express


def _low_rank_slots(module: nn.Module, config: LoRA, parts: list[Part]) -> dict[str, list[Slot]]:
    """The part's name → PEFT's slot for each of its places; parts that PEFT cannot express are not in it.

    A tied weight has one slot per place: PEFT adapts each by itself, and must do so alike.
    """
    able = {slot.site.name: slot for slot in peft_keys.slots(module).values() if not slot.reason_against()}
    plain = [part for part in parts if type(part.update) is LowRank]
    chosen = {part.name for part in plain if all(site.name in able for site in part.sites)}
    chosen -= _half_attentions(able, [part for part in plain if part.name in chosen])
    modules = [able[site.name] for part in plain if part.name in chosen for site in part.sites]
    raw: list[str] = []
    if not config.dropout and not any(is_hf_conv1d(slot.site.layer) for slot in modules):
        rest = [part for part in parts if part.name not in chosen and type(part.update) in (LowRank, Experts)]
        raw = _raw_parameters(module, rest, {slot.site.path for slot in modules})
    final = {slot.site.name: slot for slot in peft_keys.slots(module, raw).values() if not slot.reason_against()}
    return {p.name: [final[s.name] for s in p.sites] for p in parts if p.name in chosen or p.name in raw}


def _half_attentions(able: Mapping[str, Slot], parts: list[Part]) -> set[str]:
    """Parts of attentions that PEFT cannot adapt so: it adapts in_proj and out_proj together and alike."""
    ranks: dict[str, list[tuple[int, float]]] = {}
    found = [(part, able[part.name]) for part in parts if able[part.name].kind in ("attention", "out_proj")]
    for part, slot in found:
        if len(part.sites) == 1 and isinstance(part.update, LowRank):
            ranks.setdefault(slot.name, []).append((part.update.rank, part.update.scale))
    whole = {path for path, pair in ranks.items() if len(pair) == 2 and pair[0] == pair[1]}
    return {part.name for part, slot in found if slot.name not in whole}


def _raw_parameters(module: nn.Module, parts: list[Part], taken: set[str]) -> list[str]:
    """The names of weights that PEFT's ``target_parameters`` adapts as zoo does.

    taken: the paths of modules that PEFT adapts as such. Only parameters that no layer's ``weight`` is: who reads that
    from outside would get it without PEFT's update, and without an error.
    """
    able = [part for part in parts if len(part.sites) == 1 and _is_called(part.sites[0], taken) and _as_matrix(part)]
    paths = [part.sites[0].path for part in able]
    names = [part.name for part in able if not any(other.startswith(part.sites[0].path + ".") for other in paths)]
    exact = {slot.site.name for slot in peft_keys.slots(module, names).values() if slot.is_parameter}
    return names if exact == set(names) else []


def _is_called(site: Site, taken: set[str]) -> bool:
    """Whether PEFT's wrapper around the site's layer takes effect: only the layer's own forward reads the parameter."""
    layer = site.layer
    forward = getattr(type(layer), "forward", None)
    reads = forward is not nn.Module.forward and not isinstance(
        layer, nn.RNNBase | nn.utils.parametrize.ParametrizationList
    )
    return bool(site.path) and site.path not in taken and site.attribute != "weight" and reads


def _as_matrix(part: Part) -> bool:
    """Whether the update has the one orientation that PEFT gives a raw parameter's."""
    update, shape = part.update, part.shape
    if isinstance(update, Experts):
        return update.inputs_first == bool(getattr(part.sites[0].layer, "is_transposed", False))
    if not isinstance(update, LowRank) or update.transposed:
        return False
    return (len(shape), update.split) in ((2, 1), (3, 2)) and (len(shape) == 2 or shape[0] == 1)
