"""PEFT's names for the fields of our configurations, and PEFT's other fields that change no output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zoo.errors import AdapterError
from zoo.methods.config import LoRA

# PEFT's name → ours, for the fields whose names differ.
RENAMED = {"r": "rank", "target_modules": "targets"}
# Fields that PEFT writes for adapters of every kind, and that do not change the output of a trained one.
HARMLESS = frozenset(
    """
    auto_mapping base_model_name_or_path exclude_modules inference_mode init_weights layers_pattern layers_to_transform
    peft_type peft_version rank_dropout_scale revision runtime_config task_type
    """.split()  # noqa: SIM905 - a list of words reads better so
)


def to_peft(config: Any, peft_type: str, names: tuple[str, ...]) -> dict[str, Any]:
    """Return a configuration's fields `names`, rank, targets and the fields that PEFT needs, under PEFT's names."""
    raw = {name: getattr(config, name) for name in names}
    raw |= {theirs: getattr(config, ours) for theirs, ours in RENAMED.items() if hasattr(config, ours)}
    raw |= {"peft_type": peft_type, "inference_mode": True, "task_type": None}
    raw["modules_to_save"] = list(config.modules_to_save) or None
    if config.bias != "none":
        raw["bias"] = config.bias
    return {name: list(value) if isinstance(value, tuple) else value for name, value in raw.items()}


def from_peft(kind: str, raw: Mapping[str, Any], names: tuple[str, ...], harmless: frozenset[str]) -> dict[str, Any]:
    """Return the arguments of a configuration class from an `adapter_config.json`; the reverse of `to_peft`.

    Args:
        kind: The class's kind.
        raw: The file's content.
        names: The fields with the same name in both.
        harmless: PEFT's fields that change no output.

    Raises:
        AdapterError: the file is of another kind, or a field has a value that zoo would not compute.
    """
    if raw.get("peft_type") != kind.upper():
        raise AdapterError(f"expected peft_type {kind.upper()!r}, got {raw.get('peft_type')!r}")
    known = {*names, "modules_to_save", "bias", *RENAMED, *harmless}
    for key, value in raw.items():
        if key not in known and value and value != "none":
            raise AdapterError(f"{key} = {_short(value)} is a feature of PEFT that zoo does not have; save without it")
    values = {name: raw[name] for name in (*names, "modules_to_save", "bias") if raw.get(name) is not None}
    values |= {ours: raw[theirs] for theirs, ours in RENAMED.items() if raw.get(theirs) is not None}
    if values.get("targets") == "all-linear":
        values["targets"] = "all"
    return values


# Fields of PEFT's LoRA that are read here, or that do not change the output of a trained one. Any other field with a
# value is a feature without which these files cannot be read.
LORA_HARMLESS = frozenset(
    """
    auto_mapping base_model_name_or_path revision task_type inference_mode peft_type peft_version fan_in_fan_out
    layers_pattern layers_to_transform exclude_modules target_modules target_parameters r lora_alpha lora_dropout
    use_rslora rank_pattern alpha_pattern init_lora_weights loftq_config eva_config corda_config lora_ga_config
    qalora_group_size use_dora bias modules_to_save megatron_config megatron_core runtime_config
    trainable_token_indices
    """.split()  # noqa: SIM905 - a list of words reads better so
)
# The other initialisations (PiSSA, OLoRA, LoftQ, CorDA, LoRA-GA) change the base's own weights too.
INITS = (True, False, None, "gaussian", "orthogonal", "eva", "mica")


def lora_from_peft(raw: Mapping[str, Any]) -> LoRA:
    """Return the `LoRA` that an `adapter_config.json` describes.

    Raises:
        AdapterError: a field has a value that zoo would compute differently from PEFT.
    """
    if raw.get("peft_type") != "LORA":
        raise AdapterError(f"expected peft_type 'LORA', got {raw.get('peft_type')!r}")
    tied = {"ensure_weight_tying"} if raw.get("trainable_token_indices") else set()  # rows of tied weights always are
    for key, value in raw.items():
        if key not in LORA_HARMLESS | tied and value and value != "none":
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
        trainable_token_indices=raw.get("trainable_token_indices"),
    )


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
