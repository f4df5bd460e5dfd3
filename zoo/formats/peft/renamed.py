"""Adapters whose keys have names from before their library renamed, joined or split the weights.

The library's own renamings of checkpoints say where each weight is today (`zoo.integrations.old_names`). Only files
with a key that means nothing in the model go through them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from zoo.errors import AdapterError
from zoo.formats.peft import config as peft_config
from zoo.formats.peft import keys
from zoo.formats.peft.joined import Joined, Source, join
from zoo.formats.peft.keys import PREFIX, ZOO_PREFIX
from zoo.formats.spellings import peft_key, widened, without_wrappers
from zoo.integrations.old_names import Renamed, old_names, renamings
from zoo.methods.config import Adapter, LoRA, Ranked
from zoo.methods.targets import has_match, matches
from zoo.weights.parameters import parameter_names
from zoo.weights.walk import ModuleIndex, library_modules, tied_groups

_LORA = re.compile(
    r"(?P<path>.+?)(?P<around>(?:\.base_layer)*)\.(?P<part>lora_[AB]\.weight|lora_embedding_[AB]|lora_magnitude_vector)"
)
_TARGETS = (
    "target_modules",
    "modules_to_save",
    "exclude_modules",
    "target_parameters",
    "rank_pattern",
    "alpha_pattern",
)


class _Entry(NamedTuple):
    """A key of a file.

    Attributes:
        key: the key.
        start: PEFT's or zoo's prefix, or "".
        weight: the name of the weight that it changes, as it would be in a checkpoint of the file's time.
        ending: what follows the name in the key; of a layer's adapter, of the name without `.weight`.
        is_layer: whether it is of a layer's adapter, whose key has no `.weight` of its own.
        around: PEFT's wrappers between the path and the part, if any.
    """

    key: str
    start: str
    weight: str
    ending: str
    is_layer: bool
    around: str = ""

    @property
    def path(self) -> str:
        """The layer's path, for a layer's adapter."""
        return self.weight.removesuffix(".weight")

    def renamed(self, name: str) -> str:
        """Return the key with another weight's name."""
        return self.start + (name.removesuffix(".weight") if self.is_layer else name) + self.ending


def plain_keys(tensors: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Return a state dict under PEFT's own keys, without what compiling, distributing or keeping it in memory adds.

    Its tensors are of types that torch computes with.

    Raises:
        AdapterError: two keys are the same then.
    """
    has_one = "module" in dict(library_modules(module, remove_duplicate=False))
    names = {key: key if has_one and f"{PREFIX}module." in key else peft_key(key) for key in tensors}
    for key, name in names.items():
        if name != key and name in tensors:
            raise AdapterError(f"unexpected key {key!r}: it is another spelling of {name!r}, which the file has too")
    return {names[key]: widened(tensor) for key, tensor in tensors.items()}


def plain_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration without what compiling or distributing a model adds to the names of its modules."""
    return {name: _plain(value) if name in _TARGETS else value for name, value in fields.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return without_wrappers(value)
    if isinstance(value, list):
        return [without_wrappers(one) if isinstance(one, str) else one for one in value]
    return {without_wrappers(one): number for one, number in value.items()} if isinstance(value, dict) else value


def current(
    fields: dict[str, Any], tensors: dict[str, Tensor], module: nn.Module, index: ModuleIndex, config: Adapter
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return configuration and state dict under the names that the library gives to the weights today.

    Args:
        fields: PEFT's configuration.
        tensors: the file's.
        module: the base model.
        index: of the walk over it.
        config: the same as `fields`.

    Raises:
        AdapterError: weights were joined or split in a way that factors cannot follow.
    """
    own = {ref.name: group.value for group in index.groups for ref in group.refs}
    known = {*own, *index.buffers, *(f"{path}.weight" for path, _ in library_modules(module, False))}
    bare = not any(key.startswith((PREFIX, ZOO_PREFIX)) for key in tensors)  # as transformers may write them
    named = {PREFIX + key: tensor for key, tensor in tensors.items()} if bare else tensors
    entries = [_entry(key, known) for key in named]
    # Layers of a class that PEFT does not adapt were linear ones once (routers of experts).
    slots = {slot.ref.name: slot.kind for slot in keys.slots(module).values()}
    odd = {name for name, kind in slots.items() if not kind and len(own[name].shape) == 2}
    as_known = all(entry.weight in known and not (entry.is_layer and entry.weight in odd) for entry in entries)
    today = None if as_known else renamings(module)
    where = today({entry.weight for entry in entries}) if today is not None else {}
    where = {name: one for name, one in where.items() if one.conversion is not None or one.name in known}
    if today is not None and isinstance(config, LoRA):
        where |= {entry.weight: Renamed(entry.weight) for entry in entries if entry.is_layer and entry.weight in odd}
    if not where:
        return fields, tensors
    found: dict[str, Tensor] = {}
    layers: dict[str, str] = {}  # path in the file → path today
    sources: dict[str, list[Source]] = {}
    for entry in entries:
        renamed = where.get(entry.weight)
        if renamed is None:
            layers |= {entry.path: entry.path} if entry.is_layer else {}
            found[entry.key] = named[entry.key]
        elif renamed.conversion is None and (not entry.is_layer or slots.get(renamed.name) or renamed.name not in own):
            layers |= {entry.path: renamed.name.removesuffix(".weight")} if entry.is_layer else {}
            found[entry.renamed(renamed.name)] = named[entry.key]
        elif isinstance(config, LoRA) and entry.is_layer and not entry.around:
            _add(sources.setdefault(renamed.name, []), entry, renamed, named[entry.key])
        else:
            raise AdapterError(
                f"{entry.key!r}: its weight is a part of {renamed.name} today, and only factors of a LoRA can be put "
                "together like it: save the adapter again with the release of the library that it was made with"
            )
    wanted = peft_config.expected_paths(fields)
    joined = join(module, own, sources, config, wanted) if isinstance(config, LoRA) else Joined({}, {}, {}, [], [])
    return _configuration(module, fields, config, layers, where, joined), found | joined.tensors


def current_record(content: dict[str, Any] | None, module: nn.Module, index: ModuleIndex) -> dict[str, Any] | None:
    """Return what `zoo.json` says of the base under the names that the library gives to its parts today.

    Weights that were joined or split since cannot be compared, and are left out: `renamed`, which is there if any name
    is new, has what they are today.

    Args:
        content: of `zoo.json`.
        module: the base model.
        index: of the walk over it.
    """
    parts = {key: (content or {}).get(key) for key in ("weights", "replaced", "buffers")}
    named = {name for part in parts.values() if isinstance(part, dict) for name in part}
    own = {ref.name for group in index.groups for ref in group.refs} | index.buffers.keys()
    today = renamings(module) if named - own else None
    where = today(named - own) if today is not None else {}
    if content is None or not where:
        return content
    moved = {name: where[name].name if name in where else name for name in named}
    joined = {name for name, one in where.items() if one.conversion is not None}
    found = {
        key: {moved[name]: value for name, value in part.items() if name not in joined}
        for key, part in parts.items()
        if isinstance(part, dict)
    }
    if not found.get("weights"):
        return content
    parameters = own - index.buffers.keys()
    apart = dict.fromkeys(parameters - found["weights"].keys() if joined else ())
    return {**content, **found, "renamed": apart}


def _entry(key: str, known: set[str]) -> _Entry:
    start = next((prefix for prefix in (PREFIX, ZOO_PREFIX) if key.startswith(prefix)), "")
    rest = key.removeprefix(start)
    if start == ZOO_PREFIX:
        name = rest.rpartition(".")[0]
        return _Entry(key, start, name, rest.removeprefix(name), False)
    if match := _LORA.fullmatch(rest):
        path, around = match["path"], match["around"]
        return _Entry(key, start, f"{path}.weight", rest.removeprefix(path), True, around)
    if rest in known or rest.endswith((".weight", ".bias")):
        return _Entry(key, start, keys.bare_name(rest), "", False)
    path = rest.rpartition(".")[0]
    return _Entry(key, start, f"{path}.weight", rest.removeprefix(path), True)


def _add(group: list[Source], entry: _Entry, renamed: Renamed, tensor: Tensor) -> None:
    source = next((one for one in group if one.weight == entry.weight), None)
    if source is None:
        source = Source(entry.weight, renamed, {})
        group.append(source)
    source.parts[entry.ending.removeprefix(".")] = tensor


def _configuration(
    module: nn.Module,
    fields: Mapping[str, Any],
    config: Adapter,
    layers: Mapping[str, str],
    where: Mapping[str, Renamed],
    joined: Joined,
) -> dict[str, Any]:
    """Return the configuration for today's names: targets as paths, patterns for each path."""
    fields = dict(fields)
    wanted = peft_config.expected_paths(fields)
    earlier = {path: old for old, path in old_names(module).items()}
    targeted = {path for path, layer in library_modules(module, False) if path and wanted(earlier.get(path, path))}
    paths = {*layers.values(), *joined.layers, *targeted}
    fields["target_modules"] = peft_config.target_modules(module, paths) if paths else None
    parameters = [where[name].name if name in where else name for name in fields.get("target_parameters") or ()]
    fields["target_parameters"] = sorted({*parameters, *joined.parameters}) or None
    fields |= {"exclude_modules": None, "layers_to_transform": None, "layers_pattern": None}
    inputs = fields.get("feedforward_modules")  # of (IA)³: those whose inputs are scaled
    if inputs:
        chosen = tuple(inputs) if isinstance(inputs, list) else inputs
        fields["feedforward_modules"] = sorted(path for old, path in layers.items() if matches(old, chosen))
    if fields.get("modules_to_save"):
        fields["modules_to_save"] = _saved(module, fields["modules_to_save"], where)
    if isinstance(config, Ranked):
        ranks, alphas, modules = dict(joined.ranks), dict(joined.alphas), dict(library_modules(module, False))
        for old, path in layers.items():
            raw = parameter_names(modules[path]) if path in modules else ()
            for attribute in ("", *(f".{name}" for name in raw if name not in ("weight", "bias"))):
                ranks[path + attribute] = config.rank_of(old + attribute)
                alphas[path + attribute] = config.alpha_of(old + attribute)
        for name, values, usual in (("rank_pattern", ranks, config.rank), ("alpha_pattern", alphas, config.alpha)):
            fields[name] = {_pattern(path): value for path, value in values.items() if value != usual}
    return fields


def _pattern(path: str) -> str:
    """Return the pattern of a layer's path, or of a parameter's name, whose `.weight` targets leave out."""
    bare = path.removesuffix(".weight")
    return "^" + re.escape(bare) + (r"(?:\.weight)?" if bare != path else "")


def _saved(module: nn.Module, names: Any, where: Mapping[str, Renamed]) -> list[str]:
    """Return `modules_to_save` with the names of modules that are called otherwise today replaced."""
    groups, found = tied_groups(module), dict[str, None]()
    for name in names:
        if has_match(groups, name):
            found[name] = None
        for old, renamed in where.items():
            parts, today = old.split("."), renamed.name.split(".")
            for end in range(1, len(parts)):
                if matches(".".join(parts[:end]), (name,)) and parts[end:] == today[end - len(parts) :]:
                    found[".".join(today[: end - len(parts)])] = None
    return list(found) or list(names)
