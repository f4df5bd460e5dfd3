"""``adapter_config.json``: an adapter's configuration in PEFT's words, written and read."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from zoo.adapters.config import Adapter, LoRA, Ranked
from zoo.adapters.peft_keys import Slot
from zoo.adapters.targets import is_hf_conv1d, matches
from zoo.errors import AdapterError
from zoo.weights.manage import library_modules
from zoo.weights.update import Factored

# What PEFT may write and what does not change the outputs of a LoRA that has been trained. Every other key that is not
# one of `to_lora`'s and that says something is a feature that these files cannot be read without.
HARMLESS = frozenset(
    """
    auto_mapping base_model_name_or_path revision task_type inference_mode peft_type peft_version fan_in_fan_out
    layers_pattern layers_to_transform exclude_modules target_modules target_parameters r lora_alpha lora_dropout
    use_rslora rank_pattern alpha_pattern init_lora_weights loftq_config eva_config corda_config lora_ga_config
    qalora_group_size use_dora bias modules_to_save megatron_config megatron_core runtime_config
    """.split()  # noqa: SIM905 - a list of words reads better so
)
# What ``peft_type`` begins with where some of the adapter lies under zoo's own keys, which PEFT would pass over without
# a word: so it refuses the whole, for it knows no such type.
OWN_TYPE = "ZOO_"
# The other initialisations (PiSSA, OLoRA, LoftQ, CorDA, LoRA-GA) change the base's own weights too.
INITS = (True, False, None, "gaussian", "orthogonal", "eva")


def rank_of(update: Any) -> int:
    """The rank that a low-rank update has in a file: a residual one is an ordinary one of twice its own."""
    return update.pair()[0].shape[0] if isinstance(update, Factored) else update.rank


def from_lora(module: nn.Module, config: LoRA, placed: Iterable[tuple[Slot, Any]]) -> dict[str, Any]:
    """The part of PEFT's configuration that says what the adapter is.

    placed: every place that PEFT adapts, with its update. Its rank and scale are written as they are, whatever
    ``config`` says: a plugin may have chosen others, and a tied weight has those of its first place.
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
        "fan_in_fan_out": any(is_hf_conv1d(slot.site.layer) for slot, _ in placed),
        "inference_mode": True,
        "init_lora_weights": config.init if config.init in INITS else True,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": config.rank,
        "rank_pattern": {**ranks, **config.rank_pattern},
        "target_modules": _target_modules(module, layers),
        "target_parameters": parameters or None,
        "task_type": None,
        "use_dora": config.dora,
        "use_rslora": config.rslora,
    }


def from_other(module: nn.Module, config: Adapter, placed: list[tuple[Slot, str]]) -> dict[str, Any]:
    """The same of another kind. placed: PEFT's places, with the name of the weight that the update was made for."""
    raw = config.to_peft()
    paths, targets = {slot.name for slot, _ in placed}, config.targets
    every = {path for path, _ in library_modules(module)}
    if placed and not (isinstance(targets, tuple) and paths == {path for path in every if matches(path, targets)}):
        raw["target_modules"] = _target_modules(module, paths)
        inputs = raw.get("feedforward_modules")  # (IA)³'s, which must be among the others
        if inputs:
            chosen = tuple(inputs) if isinstance(inputs, list) else inputs
            raw["feedforward_modules"] = sorted(path for path in paths if matches(path, chosen))
    if isinstance(config, Ranked):
        for pattern, of in (("rank_pattern", config.rank_of), ("alpha_pattern", config.alpha_of)):
            values = {slot.name: of(name.removesuffix(".weight")) for slot, name in placed}
            other = {"^" + re.escape(path): value for path, value in values.items() if of(path) != value}
            raw[pattern] = {**other, **raw[pattern]}
    return raw


def _target_modules(module: nn.Module, paths: set[str]) -> list[str] | str:
    """The paths; where PEFT would find other modules that end in one of them, a regular expression for just these."""
    others = [path for path, _ in library_modules(module) if path not in paths]
    if any(matches(other, tuple(paths)) for other in others):
        return "|".join(re.escape(path) for path in sorted(paths))
    return sorted(paths)


def to_lora(raw: Mapping[str, Any]) -> LoRA:
    """The ``LoRA`` that a configuration describes.

    Raises ``AdapterError`` for anything that zoo would compute otherwise than PEFT.
    """
    if raw.get("peft_type") != "LORA":
        raise AdapterError(f"expected peft_type 'LORA', got {raw.get('peft_type')!r}")
    for key, value in raw.items():
        if key not in HARMLESS and value and value != "none":
            raise AdapterError(f"{key} = {_short(value)} is a feature of PEFT that zoo does not have; save without it")
    init = raw.get("init_lora_weights", True)
    if init not in INITS:
        raise AdapterError(
            f"init_lora_weights = {_short(init)} changes the base too: convert the adapter when saving it with PEFT "
            "(path_initial_model_for_weight_conversion=)"
        )
    for key in ("r", "lora_alpha"):
        if key not in raw:
            raise AdapterError(f"{key} is missing")
    targets = raw.get("target_modules") or None
    return LoRA(
        rank=raw["r"],
        alpha=raw["lora_alpha"],
        targets="all" if targets == "all-linear" else targets,
        dropout=_or(raw.get("lora_dropout"), 0.0),
        rslora=_or(raw.get("use_rslora"), False),
        rank_pattern=_or(raw.get("rank_pattern"), {}),
        alpha_pattern=_or(raw.get("alpha_pattern"), {}),
        dora=_or(raw.get("use_dora"), False),
        init=init if isinstance(init, str) and init in ("gaussian", "orthogonal") else "default",
        modules_to_save=_or(raw.get("modules_to_save"), ()),
        bias=_or(raw.get("bias"), "none"),
    )


def expected_paths(raw: Mapping[str, Any]) -> Callable[[str], bool]:
    """Whether PEFT would adapt the module at a path, by the configuration's targets."""
    targets = raw.get("target_modules")
    if not targets or targets == "all-linear" or raw.get("layers_to_transform") is not None:
        return lambda path: False  # says too little, or in too involved a way, to hold the file against it
    wanted, excluded = (tuple(v) if isinstance(v, list) else v for v in (targets, raw.get("exclude_modules") or ()))
    return lambda path: matches(path, wanted) and not matches(path, excluded)


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
