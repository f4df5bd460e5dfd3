"""Save and restore adapters: PEFT's two files with `zoo.json` beside them, and formats of other libraries.

`peft.PeftModel.from_pretrained` reads `adapter_config.json` and `adapter_model.safetensors`. `zoo.json` has the base's
name and fingerprint and the sha256 of each file, so that an adapter made for another base, or a damaged one, is refused
and not half loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from zoo.adapters import unsaved
from zoo.adapters.adapter_set import AdapterSet
from zoo.adapters.prepared import PreparedAdapter
from zoo.catalog.entry import Entry
from zoo.errors import AdapterError
from zoo.formats import detect, export, heads, manifest
from zoo.formats.peft import config as peft_config
from zoo.formats.peft import read as peft_read
from zoo.formats.peft import renamed
from zoo.formats.peft import write as peft_write
from zoo.integrations.transformers_heads import peft_task
from zoo.methods.config import Adapter
from zoo.methods.rows import RowsUpdate, with_names, with_rows_of
from zoo.methods.targets import has_match
from zoo.plugin import hooks
from zoo.storage import atomic
from zoo.storage.file_names import ADAPTER_CONFIG, ADAPTER_TENSORS, MANIFEST, PICKLES
from zoo.storage.untrusted import read_tensors
from zoo.weights.update import Update
from zoo.weights.walk import ModuleIndex, TiedGroup, index_module, unwrapped

USUAL_HEADS = ("classifier", "score")  # PEFT names both for every classifier, whichever of them the model has


def save(adapters: AdapterSet, folder: Path, name: str, format: str = "peft", prefix: str | None = None) -> Path:
    """Write one adapter into `folder`, all files or none; other files there stay.

    Args:
        adapters: the model's adapters.
        folder: where to; created if it is missing.
        name: the adapter's name.
        format: one of `export.FORMATS`.
        prefix: what keys of other formats than PEFT's begin with; None for the usual one.

    Raises:
        AdapterError: the adapter has no values, or no place in the format.
        OutputError: the folder cannot be written.
    """
    export.check_format(format, prefix)
    export.check_folder(folder, format, name)
    with atomic.staged_folder(folder) as staged:
        _write(adapters, staged, name, format, prefix)
    return folder


def save_all(adapters: AdapterSet, folder: Path, format: str = "peft", prefix: str | None = None) -> Path:
    """Write every adapter as PEFT does: "default" into `folder`, each other one into a subfolder of its name.

    Args:
        adapters: as `save`.
        folder: as `save`.
        format: as `save`.
        prefix: as `save`.

    Raises:
        AdapterError: as `save`.
        OutputError: as `save`.
    """
    export.check_format(format, prefix)
    for name in adapters.configs:
        export.check_folder(folder if name == "default" else folder / name, format, name)
    with atomic.staged_folder(folder) as staged:
        for name in adapters.configs:
            place = staged if name == "default" else staged / name
            place.mkdir(exist_ok=True)
            _write(adapters, place, name, format, prefix)
    return folder


def _write(adapters: AdapterSet, folder: Path, name: str, format: str, prefix: str | None) -> None:
    if adapters.device.type == "meta":
        raise AdapterError("an adapter on 'meta' has no values to save: load the model on a device")
    unsaved.check_base(adapters)
    adapters.buffers.notice()
    if format != "peft":
        export.write(adapters, folder, name, format, prefix)
        return
    parts = peft_write.parts_of(adapters.module, name)
    fields, tensors = peft_write.to_peft(adapters, name, parts)
    replaced = _replaced({part.name: part.update for part in parts})
    library = type(unwrapped(adapters.module))
    fields |= {
        "auto_mapping": {"base_model_class": library.__name__, "parent_library": library.__module__},
        "base_model_name_or_path": manifest.hub_base(adapters) or adapters.entry.name,
        "revision": adapters.entry.revision,
        "task_type": peft_task(unwrapped(adapters.module)) if adapters.entry.head else None,
    }
    atomic.save_tensors(folder / ADAPTER_TENSORS, dict(sorted(tensors.items())), {"format": "pt"})
    atomic.write_json(folder / ADAPTER_CONFIG, dict(sorted(fields.items())))
    atomic.write_json(
        folder / MANIFEST, manifest.describe(adapters, name, folder, replaced, heads.to_json(adapters.entry.head))
    )


def _replaced(updates: Mapping[str, Update]) -> dict[str, tuple[int, ...] | None]:
    """Return the parts of the base that do not matter under these updates: a weight's rows, or None for all of it."""
    rows = {name: update.indices for name, update in updates.items() if isinstance(update, RowsUpdate)}
    whole = [name for name, update in updates.items() if update.replaces and update.replacement() is not None]
    return {**rows, **dict.fromkeys(whole)}


class SavedAdapter(NamedTuple):
    """The content of a saved adapter's files, checked as far as that can be without its base.

    Attributes:
        place: the folder or file, for errors.
        record: of `zoo.json`, for `model.records`.
        tensors: of the file, views of it or in memory.
        fields: of PEFT's configuration; None for other libraries' files.
        manifest: the content of `zoo.json`; None without one.
        metadata: of the tensors' file.
    """

    place: Path
    record: dict[str, Any]
    tensors: dict[str, Tensor]
    fields: dict[str, Any] | None
    manifest: dict[str, Any] | None
    metadata: dict[str, str]

    def in_memory(self) -> SavedAdapter:
        """Return the same with tensors that need the files no more."""
        return self._replace(tensors={name: tensor.clone() for name, tensor in self.tensors.items()})


def read(entry: Entry, place: Path) -> SavedAdapter:
    """Read the files of a saved adapter, for a model of `entry`; no module is needed for that.

    Args:
        entry: the model's.
        place: a folder with PEFT's two files, or a safetensors file (or a folder with one) of diffusers, LyCORIS or
            kohya.

    Raises:
        AdapterError: a file is missing or damaged, or the adapter was trained with another head.
    """
    record = heads.record_for(entry, place)
    if place.name == ADAPTER_TENSORS and (place.parent / ADAPTER_CONFIG).is_file():
        place = place.parent
    fields = content = None
    if place.is_dir() and ((place / ADAPTER_CONFIG).is_file() or (place / MANIFEST).is_file()):
        fields, content = manifest.read_json(place / ADAPTER_CONFIG), manifest.read(place)
        _check_files(place, content)
    else:
        place = detect.find(place)
    try:
        found = read_tensors(place if fields is None else place / ADAPTER_TENSORS)
    except AdapterError as error:
        raise _with_place(place, error) from error
    return SavedAdapter(place, record, found.tensors, fields, content, found.metadata)


def prepare(
    adapters: AdapterSet, name: str, found: SavedAdapter, groups: list[TiedGroup] | None = None
) -> PreparedAdapter:
    """Return a saved adapter, ready to be attached; the model is not changed.

    Args:
        adapters: the model's adapters.
        name: the adapter's.
        found: its files.
        groups: the module's parameters, if they were just listed.

    Raises:
        AdapterError: it was made for another base, keys match no weight, weights have no keys, or factors have another
            shape.
    """
    index = index_module(adapters.module)
    restored = _of_other(adapters, index, found) if found.fields is None else _of_peft(adapters, index, found)
    groups = index.groups if groups is None else groups
    return PreparedAdapter(name, restored.config, restored.updates, found.record, groups, restored.buffers)


class _Restored(NamedTuple):
    config: Adapter
    updates: dict[str, Update]
    buffers: dict[str, Tensor]


def _of_other(adapters: AdapterSet, index: ModuleIndex, found: SavedAdapter) -> _Restored:
    try:
        fields, tensors = detect.as_peft(found.place, found.tensors, found.metadata, adapters.module)
    except AdapterError as error:
        raise _with_place(found.place, error) from error
    return _restored(adapters, index, found.place, found.place, fields, tensors)


def _of_peft(adapters: AdapterSet, index: ModuleIndex, saved: SavedAdapter) -> _Restored:
    folder, fields = saved.place, saved.fields or {}
    recorded = renamed.current_record(saved.manifest, adapters.module, index)
    manifest.check_base(adapters, fields, recorded, folder)
    targets = (recorded or {}).get("targets")
    found = _restored(adapters, index, folder, folder / ADAPTER_CONFIG, fields, saved.tensors, targets)
    try:
        manifest.check_replaced(recorded, _replaced(found.updates))
    except AdapterError as error:
        raise _with_place(folder, error) from error
    return found


def _restored(
    adapters: AdapterSet,
    index: ModuleIndex,
    place: Path,
    source: Path,
    fields: dict[str, Any],
    tensors: Mapping[str, Tensor],
    targets: Any = None,
) -> _Restored:
    """Return the adapter; `fields` are from the file `source`, `targets` from the user."""
    try:
        config: Adapter = with_names(_config(renamed.plain_fields(fields), targets), adapters.module)
    except AdapterError as error:
        raise _with_place(source, error) from error
    try:
        plain = renamed.plain_keys(tensors, adapters.module)
        now, tensors = renamed.current(renamed.plain_fields(fields), plain, adapters.module, index, config)
        config = config if tensors is plain else with_names(_config(now, None), adapters.module)
    except AdapterError as error:
        raise _with_place(place, error) from error
    if config.modules_to_save:
        names = config.modules_to_save
        present = tuple(name for name in names if name not in USUAL_HEADS or has_match(index.groups, name))
        config = replace(config, modules_to_save=present)  # type: ignore[type-var]
    try:
        updates, buffers = peft_read.updates_of(adapters, index, config, now, tensors)
        return _Restored(with_rows_of(config, updates, index.groups), updates, buffers)
    except AdapterError as error:
        raise _with_place(place, error) from error


def _with_place(place: Path, error: AdapterError) -> AdapterError:
    """Return the error with its place, in one line: text that it quotes from a file may have any characters."""
    text = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in str(error))
    return AdapterError(f"{place}: {text}")


def _config(fields: dict[str, Any], targets: Any) -> Adapter:
    kind = fields.get("peft_type")
    if not isinstance(kind, str):
        raise AdapterError(f"expected a peft_type such as 'LORA', got {kind!r}")
    fields = {**fields, "peft_type": kind.removeprefix(peft_config.ZOO_TYPE)}
    if targets:
        fields["target_modules"] = targets
    config = hooks.adapter_config(fields["peft_type"].lower(), fields)
    if config is None:
        raise AdapterError(f"no plugin knows adapters of the kind {kind!r}; expected peft_type 'LORA' or a plugin's")
    return config


def _check_files(folder: Path, content: Mapping[str, Any] | None) -> None:
    """Raise `AdapterError` if a file is missing, or differs from its digest in `content` of `zoo.json`."""
    for name in (ADAPTER_CONFIG, ADAPTER_TENSORS):
        if not (folder / name).is_file():
            pickled = folder / PICKLES[0]
            if name == ADAPTER_TENSORS and pickled.is_file():
                raise AdapterError(
                    f"{pickled}: a pickle, which zoo does not execute; save the adapter as {ADAPTER_TENSORS}"
                )
            raise AdapterError(f"{folder}: no {name}, expected an adapter in PEFT's format")
        if content is not None and atomic.digest(folder / name) != content["sha256"].get(name):
            raise AdapterError(
                f"{folder / name}: damaged or changed, its sha256 is not the one in {MANIFEST}; get it again"
            )
