"""The files of a saved adapter's folder, and changes made to them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

CONFIG, TENSORS, MANIFEST = "adapter_config.json", "adapter_model.safetensors", "zoo.json"
TARGETS = ["fc", "conv2d", "embed"]


def with_own(folder: Path) -> Path:
    (folder.parent / MANIFEST).rename(folder / MANIFEST)
    return folder


def edit(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> Path:
    tensors = load_file(folder / TENSORS)
    change(tensors)
    save_file(tensors, folder / TENSORS)
    return folder


def edit_json(folder: Path, name: str = CONFIG, **values: Any) -> Path:
    raw = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**raw, **values}))
    return folder


def key(path: str, factor: str) -> str:
    return f"base_model.model.{path}.lora_{factor}.weight"
