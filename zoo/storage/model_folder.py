"""Write a model's folder: config.json, the weights as safetensors, and the digests of both."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.storage import atomic
from zoo.storage.config_json import CONFIG
from zoo.storage.sums import SUMS
from zoo.storage.to_host import to_host

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "model.safetensors"


def write_model(
    folder: Path, config: Mapping[str, Any] | None, tensors: Mapping[str, Tensor], *, weights: str = WEIGHTS
) -> None:
    """Write config.json and the weights into a folder, which is made if it is missing.

    Args:
        folder: where to.
        config: what config.json is to hold; None or empty: it is not written.
        tensors: name → tensor, on any device; tensors that share memory are written apart.
        weights: the file of the weights.

    Raises:
        OutputError: a file cannot be written.
    """
    if config:
        atomic.write_json(folder / CONFIG, config)
    plain = to_host(tensors)
    atomic.save_tensors(folder / weights, plain)


def write_digests(folder: Path) -> None:
    """Write SHA256SUMS, as sha256sum does, of all files in a folder; `zoo.load` verifies what it lists.

    Raises:
        OutputError: it cannot be written.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != SUMS)
    atomic.write_text(folder / SUMS, "".join(f"{atomic.digest(path)}  {path.name}\n" for path in files))
