"""Parse the keys of an adapter's file: a place in the model, and a factor of its update."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo.adapters.adapter_set import AdapterSet
from zoo.errors import AdapterError
from zoo.formats.peft import keys
from zoo.formats.peft.keys import PREFIX, ZOO_PREFIX, Slot
from zoo.methods.config import Adapter, LoRA
from zoo.methods.rows import row_groups
from zoo.methods.targets import adaptable, match_parameters, matches, path_of
from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.walk import BufferRef, ModuleIndex, ParameterRef, TiedGroup, named_buffers

ALIASES = {"lora_A": "A", "lora_B": "B"}  # in zoo's keys → names of an update's parameters


class Place(NamedTuple):
    """The weight of a key, and the form of the key.

    Attributes:
        how: "zoo" for a key of zoo, "peft" for one of PEFT, "full" for a fully trained weight, "rows" for some rows of
            one, "buffer" for a buffer that belongs to the adapter.
        path: a slot's path for "peft", else a parameter's or buffer's name.
    """

    how: str
    path: str


class Reading(NamedTuple):
    """The model and configuration by which a file's keys are parsed.

    Attributes:
        adapters: the model's adapters.
        config: the adapter's configuration.
        slots: by the prefix of PEFT's keys.
        groups: by parameter name, each place of a tied weight.
        saved: names of parameters and buffers in modules that are saved whole.
        rows: by the first name of a weight, those of its rows that train.
        buffers: the module's persistent buffers, by each of their names.
    """

    adapters: AdapterSet
    config: Adapter
    slots: dict[str, Slot]
    groups: dict[str, TiedGroup]
    saved: set[str]
    rows: dict[str, tuple[int, ...]]
    buffers: dict[str, BufferRef]


def new_reading(adapters: AdapterSet, index: ModuleIndex, config: Adapter, fields: Mapping[str, Any]) -> Reading:
    """Return the reading of a file with this configuration; `fields` are PEFT's.

    Raises:
        AdapterError: the configuration names parameters or modules that the model has not.
    """
    found = index.groups
    groups = {ref.name: group for group in found for ref in group.refs}
    parameters = fields.get("target_parameters") or ()
    if not isinstance(parameters, list | tuple) or not all(isinstance(name, str) and name for name in parameters):
        raise AdapterError(f"target_parameters: expected a list of parameters' names, got {parameters!r}")
    saved: set[str] = set()
    if config.modules_to_save:
        wanted = tuple(config.modules_to_save)
        whole = {ref.name for group in match_parameters(found, wanted, "modules_to_save:") for ref in group.refs}
        saved = {name for name in whole if _inside(name, wanted)}
        saved |= {name for name in index.buffers if _inside(name, wanted)}
    rows = {name: indices for name, (_, indices) in row_groups(found, config).items()}
    buffers = {name: ref for name, ref in index.buffers.items() if ref.persistent}
    return Reading(adapters, config, keys.slots(adapters.module, parameters), groups, saved, rows, buffers)


def _inside(name: str, modules: tuple[str, ...]) -> bool:
    """Return whether a parameter is in one of the modules, or is one of the names itself."""
    parts = name.split(".")
    return any(matches(".".join(parts[:end]), modules) for end in range(1, len(parts) + 1))


def ref_of(reading: Reading, name: str) -> ParameterRef:
    """Return the parameter of that name."""
    return next(ref for ref in reading.groups[name].refs if ref.name == name)


# Keys


def place_of(reading: Reading, name: str, full: str) -> tuple[Place, str] | None:
    """Return the place of a key, and its factor; None for a copy of one of the base's tensors.

    Args:
        reading: from `new_reading`.
        name: the key in the file, for the error.
        full: the key with PEFT's or zoo's prefix.

    Raises:
        AdapterError: the key is unexpected, or of no weight of the model.
    """
    if full.startswith(ZOO_PREFIX):
        return _zoo_key(reading, name, full.removeprefix(ZOO_PREFIX))
    rest = full.removeprefix(PREFIX)
    if rest == full:
        raise _unexpected(name)
    bare = rest if rest in reading.groups else keys.bare_name(rest)
    if bare in reading.saved or (bare.endswith(".bias") and bare in reading.groups and reading.config.bias != "none"):
        if bare in reading.buffers:
            return Place("buffer", bare), "value"
        return (Place("full", bare), "weight") if bare in reading.groups else None
    stem = rest.removesuffix(keys.TOKENS)
    table = keys.bare_name(stem.removesuffix(keys.TOKENS_LAYER)) if stem != rest else ""
    if table in _tables(reading):
        return Place("rows", _tables(reading)[table]), "rows"
    key = _lora_key(reading, name, rest) if isinstance(reading.config, LoRA) else _other_key(reading, rest)
    if key is None and (_base_copy(reading, rest) is None):
        raise _unexpected(name)
    return key


def _lora_key(reading: Reading, name: str, rest: str) -> tuple[Place, str] | None:
    key = keys.parse_lora(rest, reading.slots)
    if key is None:
        return None
    path, factor = key
    if factor == "magnitude" and not getattr(reading.config, "dora", False):
        raise _unexpected(name)
    if path not in reading.slots or reading.slots[path].ref.name not in reading.groups:
        raise AdapterError(
            f"{name!r} matches no weight of {reading.adapters.entry.name!r}; it was made for another model"
        )
    return Place("peft", path), factor


def _other_key(reading: Reading, rest: str) -> tuple[Place, str] | None:
    path, _, factor = rest.rpartition(".")
    slot = reading.slots.get(path)
    usable = slot is not None and factor not in ("weight", "bias")
    return (Place("peft", path), factor) if usable and slot.ref.name in reading.groups else None  # type: ignore[union-attr]


def _zoo_key(reading: Reading, name: str, rest: str) -> tuple[Place, str]:
    if rest in reading.buffers:
        return Place("buffer", rest), "value"
    parts = rest.split(".")
    for end in range(len(parts) - 1, 0, -1):
        path = ".".join(parts[:end])
        if path in reading.groups:
            factor = ".".join(parts[end:])
            how = "rows" if factor == "rows" and reading.groups[path].name in reading.rows else "zoo"
            return Place(how, path), ALIASES.get(factor, factor)
    if parts[-1] in ALIASES and len(parts) > 1:
        raise AdapterError(
            f"{name!r} matches no weight of {reading.adapters.entry.name!r}; it was made for another model"
        )
    raise _unexpected(name)


def _tables(reading: Reading) -> dict[str, str]:
    """Return layer's path → name of the weights of which rows train."""
    refs = [ref for name in reading.rows for ref in reading.groups[name].refs]
    return {ref.path: ref.name for ref in refs if ref.attribute == "weight"}


def _unexpected(name: str) -> AdapterError:
    return AdapterError(f"unexpected key {name!r}: expected {PREFIX}<layer's path>.lora_A.weight and the like")


def _base_copy(reading: Reading, rest: str) -> ParameterRef | None:
    """Return the weight of which a key holds a copy: PEFT saves embeddings and heads that it adapts."""
    path, _, attribute = rest.rpartition(".")
    slot = reading.slots.get(path.removesuffix(keys.WRAPPED).removesuffix(keys.TOKENS_LAYER))
    if attribute != "weight" or slot is None or slot.ref.attribute != "weight":
        return None
    return slot.ref if adaptable(reading.groups[slot.ref.name].value) else None


def changed_rows(reading: Reading, rest: str, tensor: Tensor) -> tuple[str, tuple[int, ...]]:
    """Return the weight of which the file has a copy, and the rows in which that is not the base's to its precision.

    An embedding that was resized has new rows, which are other ones in each process; PEFT's file holds all of it then.

    Args:
        reading: from `new_reading`.
        rest: the key without its prefix.
        tensor: the copy.

    Raises:
        AdapterError: the copy is not of this base: of another shape, or half of the rows or more differ.
    """
    rows: tuple[int, ...] = ()
    name = ""
    ref = _base_copy(reading, rest)
    if ref is None:
        name = keys.bare_name(rest)
        expected = named_buffers(reading.adapters.module)[name]
        same = tuple(expected.shape) == tuple(tensor.shape)
        same = same and (expected.is_meta or torch.equal(expected, tensor.to(expected)))
        what = name
    else:
        value = reading.groups[ref.name].value
        expected = value.base_tensor().detach() if isinstance(value, ManagedWeight) else value.detach()
        tolerance = 0.3 if isinstance(value, ManagedWeight) and value.packed is not None else 0.02
        same = tuple(tensor.shape) == tuple(expected.shape) and tensor.is_floating_point()
        name = reading.groups[ref.name].name
        if same and not expected.is_meta:
            expected = expected.float().flatten(1)
            distance = (tensor.to(expected.device, expected.dtype).flatten(1) - expected).norm(dim=1)  # (rows,)
            differ = ~(distance <= tolerance * expected.norm(dim=1))
            rows = tuple(differ.nonzero().flatten().tolist())
            same = 2 * len(rows) < len(differ) and tensor.dim() == 2
            same = same or not rows
        what = f"the weight of {path_of(ref)} itself"
    if not same:
        raise AdapterError(
            f"it holds {what}, {tuple(tensor.shape)}, and that is not this base's; the base was extended or trained, "
            "and zoo does not load such parts of it"
        )
    return name, rows


def check_values(place: Place, factor: str, tensor: Tensor) -> None:
    """Raise `AdapterError` unless the values of a factor are finite floats."""
    finite = tensor.is_floating_point()
    if finite and tensor.numel():
        low, high = torch.aminmax(tensor)  # NaN and Inf show in the extremes, and no temporary is made
        finite = bool(torch.isfinite(low) & torch.isfinite(high))
    if not finite:
        raise AdapterError(f"{place.path}: expected finite numbers in its factor {factor}, got NaN, Inf or no floats")
