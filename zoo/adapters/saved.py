"""Saved adapters: PEFT's two files, and ``zoo.json`` beside them, which says for which base they are.

``adapter_config.json`` and ``adapter_model.safetensors`` are what ``peft.PeftModel.from_pretrained`` reads.
``zoo.json`` holds the base's name and fingerprint and the sha256 of each file, so that an adapter made for another
base, or a damaged one, is refused and not half loaded.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo import files, host
from zoo.adapters import peft_keys
from zoo.adapters.config import LoRA
from zoo.adapters.targets import Group, adaptable, is_hf_conv1d, layout_of, matches, path_of
from zoo.errors import AdapterError
from zoo.weights.manage import Site, grouped_sites
from zoo.weights.standin import Weight
from zoo.weights.store import Store
from zoo.weights.update import LowRank, Update

if TYPE_CHECKING:
    from zoo.model import Model

CONFIG, TENSORS, OWN = "adapter_config.json", "adapter_model.safetensors", "zoo.json"
UNSUPPORTED = {
    "use_dora": (False, None),
    "bias": ("none", None),
    "modules_to_save": (None, []),
    "target_parameters": (None, []),
    "trainable_token_indices": (None,),
    "layer_replication": (None, []),
    "alora_invocation_tokens": (None,),
}


def locate(where: str | os.PathLike[str]) -> Path:
    """The folder of a saved adapter: a local one if it exists, else a Hub repository's. Raises a ``ZooError``."""
    folder = Path(where).expanduser()
    if folder.is_dir():
        return folder
    text = os.fspath(where)
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", text):
        from zoo.hub import snapshot

        return snapshot(text)
    raise AdapterError(f"lora={text!r}: expected a folder that exists, or a Hub repository written owner/name")


def save(model: Model, folder: Path, name: str) -> Path:
    """Write one adapter into ``folder``, all files or none. Raises ``OutputError`` or ``AdapterError``."""
    config = model.adapters[name]
    if model.device.type == "meta":
        raise AdapterError("an adapter on 'meta' has no values to save: load the model on a device")
    tensors: dict[str, Tensor] = {}
    sites: list[Site] = []
    for held, places in grouped_sites(model.module):
        update = held.updates[name] if isinstance(held, Store) and name in held.updates else None
        if isinstance(update, LowRank):
            written = peft_keys.written(places, update)
            tensors |= {key: tensor.cpu() for key, tensor in written.items()}
            sites += [site for site in places if f"{peft_keys.PREFIX}{site.path}.lora" in _stems(written)]
        elif update is not None:
            raise AdapterError(f"{places[0].name}: an adapter of kind {update.kind!r} has no file format yet")
    with files.replace_folder(folder) as staged:
        files.save_tensors(staged / TENSORS, dict(sorted(tensors.items())), {"format": "pt"})
        files.write_json(staged / CONFIG, _peft_config(model, config, sites))
        files.write_json(staged / OWN, _own(model, config, staged))
    return folder


def _stems(keys: Mapping[str, Tensor]) -> set[str]:
    return {re.sub(r"(lora)_.*", r"\1", key) for key in keys}


def _peft_config(model: Model, config: LoRA, sites: list[Site]) -> dict[str, Any]:
    module = type(model.module)
    return {
        "alpha_pattern": dict(config.alpha_pattern),
        "auto_mapping": {"base_model_class": module.__name__, "parent_library": module.__module__},
        "base_model_name_or_path": _base_name(model),
        "bias": "none",
        "fan_in_fan_out": any(is_hf_conv1d(site.layer) for site in sites),
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": config.rank,
        "rank_pattern": dict(config.rank_pattern),
        "revision": model.entry.revision,
        "target_modules": sorted(site.path for site in sites),
        "task_type": None,
        "use_dora": False,
        "use_rslora": config.rslora,
    }


def _base_name(model: Model) -> str:
    weights = model.entry.weights
    return weights if weights and "/" in weights and model.entry.source != "folder" else model.entry.name


def _own(model: Model, config: LoRA, staged: Path) -> dict[str, Any]:
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


def restore(model: Model, folder: Path) -> tuple[LoRA, dict[str, Update]]:
    """A saved adapter's configuration and updates (by weight), ready to be attached to ``model``.

    Raises ``AdapterError`` that names what is wrong: a file missing or damaged, another base, keys that match no
    weight, weights without keys, factors of another shape. The model is not touched.
    """
    raw, own = _json(folder / CONFIG), _own_json(folder)
    _check_files(folder, own)
    _check_base(model, raw, own, folder)
    config = _lora(raw, own, folder)
    groups = {site.path if site.attribute == "weight" else site.name: (held, sites)
              for held, sites in grouped_sites(model.module) if adaptable(held) for site in sites}
    by_name = {site.name: group for group in groups.values() for site in group[1]}
    pairs: dict[tuple[bool, str], dict[str, Tensor]] = {}
    for key, tensor in _tensors(folder / TENSORS).items():
        is_own, path, _, factor = peft_keys.parse(key)
        if path not in (by_name if is_own else groups):
            raise AdapterError(f"{folder}: {key!r} matches no weight of {model.entry.name!r}; it was made for another model")
        pairs.setdefault((is_own, path), {})[factor] = tensor
    if not pairs:
        raise AdapterError(f"{folder / TENSORS}: holds no adapter at all")
    found: dict[str, Update] = {}
    places: dict[str, set[str]] = {}
    for (is_own, path), pair in pairs.items():
        held, sites = (by_name if is_own else groups)[path]
        site = next(site for site in sites if path in (site.path, site.name))
        if len(pair) < 2:
            raise AdapterError(f"{folder}: {path} has only lora_{next(iter(pair))}, its other factor is missing")
        update = _update(model, (held, sites), site, config, pair, is_own)
        first = sites[0].name
        if first in found:
            _check_tied(folder, path, found[first], update)
        found[first] = update
        places.setdefault(first, set()).update({s.name for s in sites} if is_own else {site.name})
    _check_complete(model, folder, raw, groups, by_name, found, places)
    return config, found


def _update(model: Model, group: Group, site: Site, config: LoRA, pair: dict[str, Tensor], own: bool) -> LowRank:
    held, sites = group
    layout = layout_of(sites, held.shape)
    A, B = peft_keys.read_pair(site, layout, held.shape, pair["A"], pair["B"], own)
    path = path_of(site)
    if A.shape[0] != config.rank_of(path):
        raise AdapterError(f"{path}: its factors have rank {A.shape[0]}, the configuration says {config.rank_of(path)}")
    weight = Weight(held if isinstance(held, Store) else Store(held, layout))
    update = host.inject_adapter(model.entry, site.name, weight, config)  # type: ignore[arg-type]
    if not isinstance(update, LowRank):
        raise AdapterError(f"{path}: no plugin makes a low-rank update for it")
    with torch.no_grad():
        if update.A.device.type != "meta":
            update.A.copy_(A)
            update.B.copy_(B)
    return update


def _check_tied(folder: Path, path: str, one: Update, other: LowRank) -> None:
    assert isinstance(one, LowRank)
    if not (torch.equal(one.A, other.A) and torch.equal(one.B, other.B)):
        raise AdapterError(
            f"{folder}: {path} shares its weight with another layer and has another adapter than that; "
            "zoo keeps tied weights tied and cannot load it"
        )


def _check_complete(
    model: Model,
    folder: Path,
    raw: Mapping[str, Any],
    groups: Mapping[str, Group],
    by_name: Mapping[str, Group],
    found: Mapping[str, Update],
    places: Mapping[str, set[str]],
) -> None:
    for first, seen in places.items():
        unseen = [site.name for site in by_name[first][1] if site.name not in seen]
        if unseen:
            raise AdapterError(
                f"{folder}: {first} is adapted, but {unseen[0]}, which shares its weight, is not; zoo keeps tied weights "
                "tied and cannot load it"
            )
    targets = raw.get("target_modules")
    if targets == "all-linear" or raw.get("layers_to_transform") is not None or raw.get("exclude_modules"):
        return
    wanted = tuple(targets) if isinstance(targets, list) else targets
    for path, (_, sites) in groups.items():
        if matches(path, wanted) and sites[0].name not in found and peft_keys.kind_of(sites[0]):
            raise AdapterError(f"{folder}: its configuration targets {path}, for which the file has no factors")


def _lora(raw: Mapping[str, Any], own: Mapping[str, Any] | None, folder: Path) -> LoRA:
    if raw.get("peft_type") != "LORA":
        raise AdapterError(f"{folder / CONFIG}: expected peft_type LORA, got {raw.get('peft_type')!r}")
    for key, plain in UNSUPPORTED.items():
        if raw.get(key) not in plain:
            raise AdapterError(f"{folder / CONFIG}: {key}={raw[key]!r} is not supported, expected {plain[0]!r}")
    targets = (own or {}).get("targets") or raw.get("target_modules")
    if targets == "all-linear":
        targets = "all"
    try:
        return LoRA(
            rank=raw["r"],
            alpha=raw["lora_alpha"],
            targets=targets,
            dropout=raw.get("lora_dropout", 0.0),
            rslora=bool(raw.get("use_rslora", False)),
            rank_pattern=dict(raw.get("rank_pattern") or {}),
            alpha_pattern=dict(raw.get("alpha_pattern") or {}),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise AdapterError(f"{folder / CONFIG}: {type(error).__name__}: {error}") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise AdapterError(f"{path.parent}: no {path.name}, expected an adapter's folder") from error
    except (OSError, ValueError) as error:
        raise AdapterError(f"{path}: damaged, expected JSON ({error})") from error
    if not isinstance(content, dict):
        raise AdapterError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def _own_json(folder: Path) -> dict[str, Any] | None:
    if not (folder / OWN).is_file():
        return None
    own = _json(folder / OWN)
    if own.get("format") != 1 or not isinstance(own.get("base"), dict) or not isinstance(own.get("sha256"), dict):
        raise AdapterError(f"{folder / OWN}: expected format 1 with base and sha256; a newer zoo may have written it")
    return own


def _check_files(folder: Path, own: Mapping[str, Any] | None) -> None:
    for name in (CONFIG, TENSORS):
        if not (folder / name).is_file():
            raise AdapterError(f"{folder}: no {name}, expected an adapter in PEFT's format")
        if own is not None and files.digest(folder / name) != own["sha256"].get(name):
            raise AdapterError(f"{folder / name}: damaged or changed, its sha256 is not the one in {OWN}; get it again")


def _check_base(model: Model, raw: Mapping[str, Any], own: Mapping[str, Any] | None, folder: Path) -> None:
    if own is not None:
        made_for = own["base"].get("fingerprint")
        if made_for and model.fingerprint and made_for != model.fingerprint:
            raise AdapterError(
                f"{folder}: made for the base {own['base'].get('name')!r} (fingerprint {made_for[:8]}), and "
                f"{model.entry.name!r} is another one ({model.fingerprint[:8]}); load that base"
            )
        return
    base, mine = raw.get("base_model_name_or_path"), model.entry.weights
    if base and mine and "/" in mine and "/" in str(base) and not Path(base).exists() and base != mine:
        raise AdapterError(f"{folder}: made for the base {base!r}, and this is {mine!r}; load that base")


def _tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise AdapterError(f"{path}: damaged or no safetensors file ({error}); get it again") from error
