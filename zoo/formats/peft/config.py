"""`adapter_config.json`: an adapter's configuration in PEFT's fields, written and read."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from zoo.formats.peft.keys import Slot
from zoo.methods.config import Adapter, LoRA, Ranked
from zoo.methods.peft_fields import INITS
from zoo.methods.targets import matches
from zoo.weights.layout import is_hf_conv1d
from zoo.weights.update import LowRankUpdate
from zoo.weights.walk import library_modules

# Prefix of `peft_type` for adapters with zoo-only keys. PEFT silently skips unknown keys but rejects unknown types.
ZOO_TYPE = "ZOO_"


def rank_of(update: Any) -> int:
    """Return the rank that a low-rank update has in a file: a PiSSA update is an ordinary LoRA of twice its rank."""
    return update.pair()[0].shape[-2] if isinstance(update, LowRankUpdate) else update.rank


def from_lora(module: nn.Module, config: LoRA, placed: Iterable[tuple[Slot, Any]]) -> dict[str, Any]:
    """Return PEFT's configuration of a LoRA, without the fields about its base model.

    Each update's rank and scale are written as they are, even if `config` has others: a plugin may have chosen them,
    and a tied weight has those of its first place.

    Args:
        module: the base model.
        config: the adapter's configuration.
        placed: every place that PEFT adapts, with its update.
    """
    placed = list(placed)
    ranks, alphas = {}, {}
    for slot, update in placed:
        pattern = "^" + re.escape(slot.name)
        rank = rank_of(update)
        if config.rank_of(slot.name) != rank:
            ranks[pattern] = rank
        alpha = update.scale * (math.sqrt(rank) if config.rslora else rank)
        if not math.isclose(alpha, config.alpha_of(slot.name), rel_tol=1e-12, abs_tol=0.0):
            alphas[pattern] = alpha
    layers = {slot.name for slot, _ in placed if not slot.is_parameter}
    parameters = sorted(slot.name for slot, _ in placed if slot.is_parameter)
    return {
        "alpha_pattern": {**alphas, **config.alpha_pattern},
        "bias": config.bias,
        "fan_in_fan_out": any(is_hf_conv1d(slot.ref.layer) for slot, _ in placed),
        "inference_mode": True,
        "init_lora_weights": config.init if config.init in INITS else True,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": config.rank,
        "rank_pattern": {**ranks, **config.rank_pattern},
        "target_modules": target_modules(module, layers),
        "target_parameters": parameters or None,
        "task_type": None,
        "use_dora": config.dora,
        "use_rslora": config.rslora,
        **(
            {"trainable_token_indices": _rows(config.trainable_token_indices)} if config.trainable_token_indices else {}
        ),
    }


def _rows(indices: Any) -> dict[str, list[int]]:
    return {path: list(rows) for path, rows in indices.items()}


def from_other(module: nn.Module, config: Adapter, placed: list[tuple[Slot, str]]) -> dict[str, Any]:
    """Return PEFT's configuration of an adapter of another kind, without the fields about its base model.

    Args:
        module: the base model.
        config: the adapter's configuration.
        placed: PEFT's places, with the name of the weight that the update was made for.
    """
    fields = config.to_peft()
    paths, targets = {slot.name for slot, _ in placed}, config.targets
    every = {path for path, _ in library_modules(module)}
    if placed and not (isinstance(targets, tuple) and paths == {path for path in every if matches(path, targets)}):
        fields["target_modules"] = target_modules(module, paths)
        inputs = fields.get("feedforward_modules")  # (IA)³'s, which must be among the others
        if inputs:
            chosen = tuple(inputs) if isinstance(inputs, list) else inputs
            fields["feedforward_modules"] = sorted(path for path in paths if matches(path, chosen))
    if isinstance(config, Ranked):
        for pattern, of in (("rank_pattern", config.rank_of), ("alpha_pattern", config.alpha_of)):
            values = {slot.name: of(name.removesuffix(".weight")) for slot, name in placed}
            other = {"^" + re.escape(path): value for path, value in values.items() if of(path) != value}
            fields[pattern] = {**other, **fields[pattern]}
    return fields


def target_modules(module: nn.Module, paths: set[str]) -> list[str] | str:
    """Return modules' paths, or a regular expression for just these if other modules' paths end in one of them."""
    others = [path for path, _ in library_modules(module) if path not in paths]
    if any(matches(other, tuple(paths)) for other in others):
        return "|".join(re.escape(path) for path in sorted(paths))
    return sorted(paths)


def expected_paths(fields: Mapping[str, Any]) -> Callable[[str], bool]:
    """Return a function: whether PEFT would adapt the module at a path, by the configuration's targets."""
    targets = fields.get("target_modules")
    if not targets or targets == "all-linear" or fields.get("layers_to_transform") is not None:
        return lambda path: False  # too vague, or too involved, to check the file against it
    wanted, excluded = (tuple(v) if isinstance(v, list) else v for v in (targets, fields.get("exclude_modules") or ()))
    return lambda path: matches(path, wanted) and not matches(path, excluded)


def patterned(kind: str, ranks: Mapping[str, int], alphas: Mapping[str, float], **more: Any) -> dict[str, Any]:
    """Return PEFT's configuration of given ranks and alphas; the most frequent rank and alpha are its defaults.

    Args:
        kind: PEFT's `peft_type`.
        ranks: layer's path → rank.
        alphas: layer's path → alpha.
        **more: further fields.
    """
    rank, alpha = _most(ranks.values()), _most(alphas.values())
    return {
        "peft_type": kind,
        "r": rank,
        "lora_alpha" if kind == "LORA" else "alpha": alpha,
        "target_modules": sorted(ranks),
        "rank_pattern": {"^" + re.escape(path): value for path, value in ranks.items() if value != rank},
        "alpha_pattern": {"^" + re.escape(path): value for path, value in alphas.items() if value != alpha},
        **more,
    }


def _most(values: Iterable[Any]) -> Any:
    return Counter(values).most_common(1)[0][0]
