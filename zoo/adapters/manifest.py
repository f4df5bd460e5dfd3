"""``zoo.json``: for which base a saved adapter is, and the sha256 of the files beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import files
from zoo.errors import AdapterError
from zoo.hub import is_repository

if TYPE_CHECKING:
    from zoo.adapters.config import Adapter
    from zoo.model import Model

CONFIG, TENSORS, OWN = "adapter_config.json", "adapter_model.safetensors", "zoo.json"


def hub_base(model: Model) -> str | None:
    """The Hub repository that the model's weights came from, where they did."""
    weights = model.entry.weights
    from_hub = weights and is_repository(weights) and not Path(weights).exists()
    return weights if from_hub else None


def describe(model: Model, config: Adapter, staged: Path) -> dict[str, Any]:
    """What ``zoo.json`` says of an adapter whose files lie in ``staged``."""
    from zoo import __version__

    return {
        "format": 1,
        "zoo": __version__,
        "base": {
            "name": model.entry.name,
            "plugin": model.entry.plugin,
            "weights": model.entry.weights,
            "revision": model.entry.revision,
            "fingerprint": model.fingerprint,
        },
        "bits": model.scheme.bits if model.scheme else None,
        "targets": list(config.targets) if isinstance(config.targets, tuple) else config.targets,
        "sha256": {name: files.digest(staged / name) for name in (CONFIG, TENSORS)},
    }


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise AdapterError(f"{path.parent}: no {path.name}, expected an adapter's folder") from error
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterError(f"{path}: damaged, expected JSON ({error})") from error
    if not isinstance(content, dict):
        raise AdapterError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def read(folder: Path) -> dict[str, Any] | None:
    if not (folder / OWN).is_file():
        return None
    own = read_json(folder / OWN)
    if own.get("format") != 1 or not isinstance(own.get("base"), dict) or not isinstance(own.get("sha256"), dict):
        raise AdapterError(f"{folder / OWN}: expected format 1 with base and sha256; a newer zoo may have written it")
    return own


def check_files(folder: Path, own: Mapping[str, Any] | None) -> None:
    for name in (CONFIG, TENSORS):
        if not (folder / name).is_file():
            pickled = folder / "adapter_model.bin"
            if name == TENSORS and pickled.is_file():
                raise AdapterError(f"{pickled}: a pickle, which zoo does not execute; save the adapter as {TENSORS}")
            raise AdapterError(f"{folder}: no {name}, expected an adapter in PEFT's format")
        if own is not None and files.digest(folder / name) != own["sha256"].get(name):
            raise AdapterError(f"{folder / name}: damaged or changed, its sha256 is not the one in {OWN}; get it again")


def check_base(model: Model, raw: Mapping[str, Any], own: Mapping[str, Any] | None, folder: Path) -> None:
    """By the fingerprint where there is one; else by name, which tells something only between two Hub repositories."""
    if own is not None:
        made_for = own["base"].get("fingerprint")
        if isinstance(made_for, str) and model.fingerprint and made_for != model.fingerprint:
            raise AdapterError(
                f"{folder}: made for the base {own['base'].get('name')!r} (fingerprint {made_for[:8]}), and "
                f"{model.entry.name!r} is another one ({model.fingerprint[:8]}); load that base"
            )
        return
    base, mine = raw.get("base_model_name_or_path"), hub_base(model)
    if mine and isinstance(base, str) and is_repository(base) and base != mine:
        raise AdapterError(f"{folder}: made for the base {base!r}, and this is {mine!r}; load that base")
