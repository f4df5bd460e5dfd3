"""Saved adapters: PEFT's two files with `zoo.json` beside them, and those that other libraries write.

`adapter_config.json` and `adapter_model.safetensors` are what `peft.PeftModel.from_pretrained` reads.
`zoo.json` holds the base's name and fingerprint and the sha256 of each file, so that an adapter made for another
base, or a damaged one, is refused and not half loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.adapters.adapter_set import AdapterSet
from zoo.errors import AdapterError
from zoo.formats import detect, manifest
from zoo.formats.peft import config as peft_config
from zoo.formats.peft import read as peft_read
from zoo.formats.peft import write as peft_write
from zoo.methods.config import Adapter
from zoo.methods.targets import has_match
from zoo.plugin import hooks
from zoo.storage import atomic
from zoo.storage.file_names import ADAPTER_CONFIG, ADAPTER_TENSORS, MANIFEST
from zoo.storage.untrusted import read_tensors
from zoo.weights.update import Update
from zoo.weights.walk import tied_groups

USUAL_HEADS = ("classifier", "score")  # PEFT names both for every classifier, whichever of them the model has


def save(adapters: AdapterSet, folder: Path, name: str) -> Path:
    """Write one adapter into `folder`, all files or none; other files there stay.

    Raises `OutputError` or `AdapterError`.
    """
    with atomic.staged_folder(folder) as staged:
        _write(adapters, staged, name)
    return folder


def save_all(adapters: AdapterSet, folder: Path) -> Path:
    """Write every adapter, as PEFT does: "default" into `folder`, each other one into a folder in it of its name."""
    with atomic.staged_folder(folder) as staged:
        for name in adapters.configs:
            place = staged if name == "default" else staged / name
            place.mkdir(exist_ok=True)
            _write(adapters, place, name)
    return folder


def _write(adapters: AdapterSet, folder: Path, name: str) -> None:
    if adapters.device.type == "meta":
        raise AdapterError("an adapter on 'meta' has no values to save: load the model on a device")
    raw, tensors = peft_write.written(
        adapters.module, adapters.configs[name], peft_write.parts_of(adapters.module, name)
    )
    library = type(adapters.module)
    raw |= {
        "auto_mapping": {"base_model_class": library.__name__, "parent_library": library.__module__},
        "base_model_name_or_path": manifest.hub_base(adapters) or adapters.entry.name,
        "revision": adapters.entry.revision,
    }
    atomic.save_tensors(folder / ADAPTER_TENSORS, dict(sorted(tensors.items())), {"format": "pt"})
    atomic.write_json(folder / ADAPTER_CONFIG, dict(sorted(raw.items())))
    atomic.write_json(folder / MANIFEST, manifest.describe(adapters, name, folder))


def restore(adapters: AdapterSet, place: Path) -> tuple[Adapter, dict[str, Update]]:
    """A saved adapter's configuration and updates (by weight), ready to be attached to `model`.

    place: a folder with PEFT's two files, or a safetensors file (or a folder with one) of diffusers, LyCORIS or
    kohya. Raises `AdapterError` that names what is wrong: a file missing or damaged, another base, keys that match
    no weight, weights without keys, factors of another shape. The model is not touched.
    """
    if place.name == ADAPTER_TENSORS and (place.parent / ADAPTER_CONFIG).is_file():
        place = place.parent
    if place.is_dir() and ((place / ADAPTER_CONFIG).is_file() or (place / MANIFEST).is_file()):
        return _restore_peft(adapters, place)
    path = detect.find(place)
    try:
        raw, tensors = detect.read(path, adapters.module)
    except AdapterError as error:
        raise _told(path, error) from error
    return _restored(adapters, path, path, raw, tensors)


def _restore_peft(adapters: AdapterSet, folder: Path) -> tuple[Adapter, dict[str, Update]]:
    raw, own = manifest.read_json(folder / ADAPTER_CONFIG), manifest.read(folder)
    manifest.check_files(folder, own)
    manifest.check_base(adapters, raw, own, folder)
    try:
        tensors = read_tensors(folder / ADAPTER_TENSORS).tensors
    except AdapterError as error:
        raise _told(folder, error) from error
    return _restored(adapters, folder, folder / ADAPTER_CONFIG, raw, tensors, (own or {}).get("targets"))


def _restored(
    adapters: AdapterSet,
    place: Path,
    said: Path,
    raw: dict[str, Any],
    tensors: Mapping[str, Tensor],
    targets: Any = None,
) -> tuple[Adapter, dict[str, Update]]:
    """The configuration `raw` (which the file `said` says) and the updates. targets: as the user had given them."""
    try:
        config = _config(raw, targets)
    except AdapterError as error:
        raise _told(said, error) from error
    if config.modules_to_save:
        names, groups = config.modules_to_save, tied_groups(adapters.module)
        there = tuple(name for name in names if name not in USUAL_HEADS or has_match(groups, name))
        config = replace(config, modules_to_save=there)  # type: ignore[type-var]
    try:
        return config, peft_read.updates_of(adapters, config, raw, tensors)
    except AdapterError as error:
        raise _told(place, error) from error


def _told(place: Path, error: AdapterError) -> AdapterError:
    """The error with the place that it is about, in one line: what it quotes of a file may hold anything."""
    text = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in str(error))
    return AdapterError(f"{place}: {text}")


def _config(raw: dict[str, Any], targets: Any) -> Adapter:
    kind = raw.get("peft_type")
    if not isinstance(kind, str):
        raise AdapterError(f"expected a peft_type such as 'LORA', got {kind!r}")
    raw = {**raw, "peft_type": kind.removeprefix(peft_config.ZOO_TYPE)}
    if targets:
        raw["target_modules"] = targets
    config = hooks.adapter_config(raw["peft_type"].lower(), raw)
    if config is None:
        raise AdapterError(f"no plugin knows adapters of the kind {kind!r}; expected peft_type 'LORA' or a plugin's")
    return config
