"""Saved adapters: PEFT's two files, and ``zoo.json`` beside them, which says for which base they are.

``adapter_config.json`` and ``adapter_model.safetensors`` are what ``peft.PeftModel.from_pretrained`` reads.
``zoo.json`` holds the base's name and fingerprint and the sha256 of each file, so that an adapter made for another
base, or a damaged one, is refused and not half loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zoo import files, host
from zoo.adapters import manifest, peft_config, peft_keys
from zoo.adapters.config import LoRA
from zoo.adapters.manifest import CONFIG, OWN, TENSORS
from zoo.adapters.targets import Group, adaptable, layout_of, path_of
from zoo.errors import AdapterError
from zoo.weights.manage import Site, grouped_sites, library_modules
from zoo.weights.standin import Weight
from zoo.weights.store import Store
from zoo.weights.update import LowRank, Update

if TYPE_CHECKING:
    from zoo.model import Model


def save(model: Model, folder: Path, name: str) -> Path:
    """Write one adapter into ``folder``, all files or none; other files there stay.

    Raises ``OutputError`` or ``AdapterError``.
    """
    config = model.adapters[name]
    if not isinstance(config, LoRA):
        raise AdapterError(f"an adapter of kind {config.kind!r} has no file format yet")
    if model.device.type == "meta":
        raise AdapterError("an adapter on 'meta' has no values to save: load the model on a device")
    tensors: dict[str, Tensor] = {}
    placed: list[tuple[Site, LowRank]] = []
    for held, sites in grouped_sites(model.module):
        update = held.updates[name] if isinstance(held, Store) and name in held.updates else None
        if update is None:
            continue
        if not isinstance(update, LowRank):
            raise AdapterError(f"{sites[0].name}: an adapter of kind {update.kind!r} has no file format yet")
        written = peft_keys.written(sites, update)
        tensors |= {key: tensor.cpu() for key, tensor in written.items()}
        if not any(key.startswith(peft_keys.OWN) for key in written):
            placed += [(site, update) for site in sites]
    library = type(model.module)
    raw = peft_config.from_lora(model.module, config, placed) | {
        "auto_mapping": {"base_model_class": library.__name__, "parent_library": library.__module__},
        "base_model_name_or_path": manifest.hub_base(model) or model.entry.name,
        "revision": model.entry.revision,
    }
    with files.staged_folder(folder) as staged:
        files.save_tensors(staged / TENSORS, dict(sorted(tensors.items())), {"format": "pt"})
        files.write_json(staged / CONFIG, dict(sorted(raw.items())))
        files.write_json(staged / OWN, manifest.describe(model, name, staged))
    return folder


def restore(model: Model, folder: Path) -> tuple[LoRA, dict[str, Update]]:
    """A saved adapter's configuration and updates (by weight), ready to be attached to ``model``.

    Raises ``AdapterError`` that names what is wrong: a file missing or damaged, another base, keys that match no
    weight, weights without keys, factors of another shape. The model is not touched.
    """
    raw, own = manifest.read_json(folder / CONFIG), manifest.read(folder)
    manifest.check_files(folder, own)
    manifest.check_base(model, raw, own, folder)
    try:
        config = peft_config.to_lora(raw, (own or {}).get("targets"))
    except AdapterError as error:
        raise AdapterError(f"{folder / CONFIG}: {error}") from error
    try:
        return config, _updates(model, config, raw, _tensors(folder / TENSORS))
    except AdapterError as error:
        raise AdapterError(f"{folder}: {error}") from error


def _updates(model: Model, config: LoRA, raw: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Update]:
    """The updates that a file's tensors describe, by the name of each weight's first place."""
    places: dict[tuple[bool, str], tuple[Site, Group]] = {}  # (one of our own keys?, what the key calls it) → where
    for group in grouped_sites(model.module):
        for site in group[1] if adaptable(group[0]) else ():
            places[True, site.name] = places[False, path_of(site)] = (site, group)
    layers = dict(library_modules(model.module))
    pairs: dict[tuple[bool, str], dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        base = peft_keys.base_path(name)
        if base is not None and (False, base) in places:
            _check_copy(base, places[False, base][1][0], tensor)
            continue
        key = peft_keys.parse(name, layers)
        if (key.own, key.path) not in places:
            raise AdapterError(f"{name!r} matches no weight of {model.entry.name!r}; it was made for another model")
        pairs.setdefault((key.own, key.path), {})[key.factor] = tensor
    if not pairs:
        raise AdapterError(f"{TENSORS} holds no adapter at all")
    found: dict[str, LowRank] = {}
    covered: set[str] = set()
    for (is_own, path), pair in pairs.items():
        if len(pair) < 2:
            raise AdapterError(f"{path} has only its factor {next(iter(pair))}, the other one is missing")
        site, group = places[is_own, path]
        update = _update(model, group, site, config, pair, is_own)
        first = group[1][0].name
        if first in found and not _equal(found[first], update):
            raise AdapterError(
                f"{path} shares its weight with {path_of(group[1][0])}, and the two have different adapters; zoo keeps "
                "tied weights tied and cannot load it"
            )
        found[first] = update
        covered |= {other.name for other in group[1]} if is_own else {site.name}
    _check_complete(raw, places, found, covered)
    return dict(found)


def _check_copy(path: str, held: nn.Parameter | Store, tensor: Tensor) -> None:
    """PEFT puts the base's embeddings beside an adapter of theirs; they must be this base's, up to its precision."""
    mine = held.base_dense().detach() if isinstance(held, Store) else held.detach()
    tolerance = 0.3 if isinstance(held, Store) and held.packed is not None else 0.02
    same = tuple(tensor.shape) == tuple(mine.shape)
    if same and not mine.is_meta:
        mine = mine.float()
        same = bool((tensor.to(mine) - mine).norm() <= tolerance * mine.norm())
    if not same:
        raise AdapterError(
            f"it holds the weight of {path} itself, {tuple(tensor.shape)}, and that is not this base's; "
            "the base was extended or trained, and zoo does not load such parts of it"
        )


def _update(model: Model, group: Group, site: Site, config: LoRA, pair: dict[str, Tensor], own: bool) -> LowRank:
    held, sites = group
    path, layout = path_of(site), layout_of(sites, held.shape)
    for factor, tensor in pair.items():
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise AdapterError(f"{path}: expected finite numbers in its factor {factor}, got NaN, Inf or no floats")
    A, B = peft_keys.read_pair(site, layout, held.shape, pair["A"], pair["B"], own)
    if A.shape[0] != config.rank_of(path):
        raise AdapterError(f"{path}: its factors have rank {A.shape[0]}, the configuration says {config.rank_of(path)}")
    weight = Weight(held if isinstance(held, Store) else Store(held, layout))
    update = host.inject_adapter(model.entry, site.name, weight, config)
    if not isinstance(update, LowRank) or update.A.shape != A.shape or update.B.shape != B.shape:
        raise AdapterError(f"{path}: no plugin makes a low-rank update of rank {A.shape[0]} for it")
    with torch.no_grad():
        if update.A.device.type != "meta":
            update.A.copy_(A)
            update.B.copy_(B)
    return update


def _equal(one: LowRank, other: LowRank) -> bool:
    if one.A.is_meta:
        return one.scale == other.scale
    return one.scale == other.scale and torch.equal(one.A, other.A) and torch.equal(one.B, other.B)


def _check_complete(
    raw: Mapping[str, Any],
    places: Mapping[tuple[bool, str], tuple[Site, Group]],
    found: Mapping[str, Update],
    covered: set[str],
) -> None:
    expected = peft_config.expected_paths(raw)
    for site, (_, sites) in places.values():
        if site.name in covered:
            continue
        path = path_of(site)
        if sites[0].name in found:
            other = path_of(next(place for place in sites if place.name in covered))
            raise AdapterError(
                f"{path} shares its weight with {other}, which is adapted, and is not adapted itself; zoo keeps tied "
                "weights tied and cannot load it"
            )
        if expected(path) and peft_keys.kind_of(site):
            raise AdapterError(f"the configuration targets {path}, for which the file has no factors")


def _tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise AdapterError(f"{path.name}: damaged or no safetensors file ({error}); get it again") from error
