"""PEFT's configurations as zoo's: the same words where both have one, and zoo's own refusal where it has none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from enum import Enum
from itertools import chain
from typing import Any

import torch
from peft.tuners.tuners_utils import check_target_module_exists
from torch import Tensor, nn

import zoo
from zoo.methods.full import FullUpdate
from zoo.methods.rows import RowsUpdate
from zoo.plugin import hooks
from zoo.weights.walk import managed_weights

RANDOM = ("init_lora_weights", "init_weights", "init_ia3_weights")  # False: not at zero
HEADS = {"SEQ_CLS": ("classifier", "score"), "TOKEN_CLS": ("classifier", "score")}


def to_zoo(config: Any, module: nn.Module) -> zoo.Adapter:
    """Return zoo's configuration of a new adapter that PEFT's describes.

    Raises:
        ZooError: it names something that zoo does not have.
    """
    raw = {name: _plain(value) for name, value in config.to_dict().items()}
    if raw.get("task_type") in HEADS:  # PEFT trains the heads of these, by their usual names
        heads = [name for name in HEADS[raw["task_type"]] if name in dict(module.named_children())]
        raw["modules_to_save"] = [*(raw.get("modules_to_save") or ()), *heads]
    init = raw.pop("init_lora_weights", True)
    known = isinstance(init, str) and init != "eva"
    adapter = hooks.adapter_config(raw["peft_type"].lower(), {**raw, "target_modules": targets(config, module)})
    return replace(adapter, init=init) if known and isinstance(adapter, zoo.LoRA) else adapter


def targets(config: Any, module: nn.Module) -> list[str] | str | None:
    """Return what an adapter targets in zoo's words: parameters' paths, where PEFT names modules."""
    named = _plain(config.target_modules)
    parameters = [name.removesuffix(".weight") for name in getattr(config, "target_parameters", None) or ()]
    limited = getattr(config, "layers_to_transform", None) is not None or getattr(config, "exclude_modules", None)
    attentions = {path for path, layer in module.named_modules() if isinstance(layer, nn.MultiheadAttention)}
    if not named or (not parameters and not limited and not attentions):
        return parameters or named
    chosen = [path for path, _ in module.named_modules() if path and check_target_module_exists(config, path)]
    paths = [[f"{path}.in_proj_weight", f"{path}.out_proj"] if path in attentions else [path] for path in chosen]
    return "|".join(re.escape(path) for path in dict.fromkeys([*chain.from_iterable(paths), *parameters]))


def starts_at_random(config: Any) -> bool:
    """Return whether a new adapter changes the outputs at once."""
    return any(getattr(config, name, True) is False for name in RANDOM)


@torch.no_grad()
def fill_at_random(module: nn.Module, name: str) -> None:
    """Give an adapter's factors random values, as PEFT's `init_lora_weights=False`; what it trains beside stays."""
    managed_here = [managed for managed in managed_weights(module).values() if name in managed.updates]
    alone = all(isinstance(managed.updates[name], RowsUpdate) for managed in managed_here)
    for managed in managed_here:
        update = managed.updates[name]
        if isinstance(update, FullUpdate | RowsUpdate) and not alone:
            continue
        for key, parameter in update.named_parameters():
            if key != "magnitude":
                _fill(parameter, key)


def _fill(parameter: Tensor, key: str) -> None:
    if key.startswith("ia3") or parameter.dim() < 2:
        nn.init.normal_(parameter)
    else:
        bound = parameter.shape[-1] ** -0.5
        nn.init.uniform_(parameter, -bound, bound)


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return sorted(value) if isinstance(value, set) else value
