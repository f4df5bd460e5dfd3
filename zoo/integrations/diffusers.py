"""diffusers' models: the names that their weights had over the years, and their own format."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.storage import atomic
from zoo.storage.config_json import CONFIG, read_json_object
from zoo.storage.model_folder import write_model

if TYPE_CHECKING:
    from torch import Tensor, nn

WEIGHTS = "diffusion_pytorch_model.safetensors"
# Files written before diffusers 0.15, those of Stable Diffusion 1.5 among them, call the attention's projections by
# other names.
_OLD_ATTENTION = re.compile(r"(.*\battentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)")
_NEW_NAME = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_NEW_ATTENTION = re.compile(r"(.*\battentions\.\d+)\.(to_q|to_k|to_v|to_out\.0)\.(weight|bias)")
_OLD_NAME = {new: old for old, new in _NEW_NAME.items()}


def current_name(name: str) -> str:
    """Return the name that today's diffusers gives to a checkpoint's parameter."""
    old = _OLD_ATTENTION.fullmatch(name)
    return f"{old[1]}.{_NEW_NAME[old[2]]}.{old[3]}" if old else name


def older_name(name: str) -> str:
    """Return the name that checkpoints before diffusers 0.15 gave to a parameter."""
    new = _NEW_ATTENTION.fullmatch(name)
    return f"{new[1]}.{_OLD_NAME[new[2]]}.{new[3]}" if new else name


def save_library_model(
    module: nn.Module, folder: Path, state_dict: Mapping[str, Tensor], extra: Mapping[str, Any] | None = None
) -> None:
    """Write config.json and the weights as diffusers' `save_pretrained` lays them out.

    Args:
        module: a diffusers model, whose configuration is written.
        folder: where to; it is made if it is missing.
        state_dict: the weights in the library's own names.
        extra: further keys of config.json; diffusers passes over those that begin with "_".

    Raises:
        OutputError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    module.save_config(folder)  # type: ignore[operator]
    if extra:
        atomic.write_json(folder / CONFIG, {**(read_json_object(folder / CONFIG) or {}), **extra})
    write_model(folder, None, state_dict, weights=WEIGHTS)
