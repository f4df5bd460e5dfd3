"""`zoo.json`, the manifest of a saved adapter: its base, its training, and the sha256 of the files beside it.

An adapter's *record*, `model.records[name]`, is the content of `zoo.json` without its format and digests. A loaded
adapter keeps its record until it is trained again, so that saving it once more writes the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from zoo.catalog.names import is_commit, is_entry_name, is_repository, is_safe
from zoo.errors import AdapterError
from zoo.storage import atomic, untrusted_json
from zoo.storage.file_names import ADAPTER_CONFIG, MANIFEST

if TYPE_CHECKING:
    from zoo.adapters.adapter_set import AdapterSet

BUFFERS = 1000  # at most so many are listed, spread evenly: the file has a limit
FORMAT = 3  # 1 had no architecture, kind, versions, training and metrics; 2 had no weights and replaced
LIBRARIES = ("torch", "transformers", "diffusers", "timm", "torch-geometric", "peft", "bitsandbytes")

Replaced = Mapping[str, Sequence[int] | None]  # parts of the base that an adapter replaces: a weight's rows, or all


class BaseRef(NamedTuple):
    """The base model that a saved adapter names.

    Attributes:
        name: a registry name, a Hub repository or (never from the Hub) a local folder.
        plugin: its architecture, if known.
        weights: the weights to load instead of the name's default ones, or None.
        revision: the revision to load instead of the name's default one, or None.
    """

    name: str
    plugin: str | None = None
    weights: str | None = None
    revision: str | None = None


def hub_base(adapters: AdapterSet) -> str | None:
    """Return the Hub repository that the model's weights came from, or None."""
    weights = adapters.entry.weights
    from_hub = weights and is_repository(weights) and not Path(weights).exists()
    return weights if from_hub else None


def base_commit(adapters: AdapterSet) -> str | None:
    """Return the commit that the base's weights were read from, or None if they are not from the Hub."""
    folder = adapters.entry.folder.name if adapters.entry.folder is not None and hub_base(adapters) else ""
    return folder if is_commit(folder) else None


def describe(
    adapters: AdapterSet, name: str, staged: Path, replaced: Replaced, head: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the content of `zoo.json` for the adapter `name`, whose files are in `staged`.

    Args:
        adapters: the model's adapters.
        name: the adapter's.
        staged: the folder with its files.
        replaced: the parts of the base that the adapter does not need, because it replaces them.
        head: the base's head, where it is not the checkpoint's; from `zoo.formats.heads`.
    """
    from zoo.weights.footprint import footprint

    config, entry, error = adapters.configs[name], adapters.entry, footprint(adapters.module).error
    fresh = {
        "architecture": entry.plugin,
        "kind": config.kind,
        "targets": list(config.targets) if isinstance(config.targets, tuple) else config.targets,
        "base": {
            "name": entry.name,
            "plugin": entry.plugin,
            "weights": entry.weights,
            "revision": entry.revision,
            "commit": base_commit(adapters),
            "fingerprint": adapters.fingerprint,
            **({"head": head} if head else {}),
        },
        "weights": {} if adapters.base is None else adapters.base.entries(replaced),
        "replaced": {weight: None if rows is None else list(rows) for weight, rows in sorted(replaced.items())},
        "buffers": _buffer_entries(adapters, name),
        "bits": adapters.scheme.bits if adapters.scheme else None,
        **({"average": adapters.scheme.average} if adapters.scheme and adapters.scheme.average else {}),
        "scheme": adapters.scheme.scheme if adapters.scheme else None,
        "quantization_error": None if error is None else float(f"{error:.6g}"),
        "versions": versions(),
    }
    return {"format": FORMAT, **fresh, **adapters.records.get(name, {}), "sha256": digests(staged)}


def _buffer_entries(adapters: AdapterSet, name: str) -> dict[str, str]:
    """Return name → entry of the base's buffers of numbers that the adapter has not its own values for."""
    from zoo.storage.fingerprint import sample

    own, values = adapters.buffers.own.get(name, {}), adapters.buffers.of_base()
    needed = sorted(key for key, value in values.items() if value.is_floating_point() and key not in own)
    return {key: sample(values[key]).entry() for key in needed[:: max(1, -(-len(needed) // BUFFERS))]}


def digests(folder: Path) -> dict[str, str]:
    """Return file name → sha256 of the files in `folder` itself, except `zoo.json`."""
    return {
        path.name: atomic.digest(path) for path in sorted(folder.iterdir()) if path.is_file() and path.name != MANIFEST
    }


def versions() -> dict[str, str]:
    """Return the versions of zoo and of installed libraries, from their metadata, without importing them."""
    from importlib.metadata import PackageNotFoundError, version

    from zoo._version import __version__

    found = {"zoo": __version__}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


# Records of training and metrics


# Reading


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in an adapter's JSON file; no NaN in `zoo.json`, which may be written again.

    Raises:
        AdapterError: the file is missing, too long or damaged.
    """
    return untrusted_json.read_json(path, strict=path.name == MANIFEST)


def read(folder: Path) -> dict[str, Any] | None:
    """Return the content of the folder's `zoo.json`, of this format or an older one; None if there is none.

    Raises:
        AdapterError: the file is damaged, or of a newer format.
    """
    if not (folder / MANIFEST).is_file():
        return None
    content = read_json(folder / MANIFEST)
    known = content.get("format") in range(1, FORMAT + 1) and not isinstance(content.get("format"), bool)
    if not known or not isinstance(content.get("base"), dict) or not isinstance(content.get("sha256"), dict):
        raise AdapterError(
            f"{folder / MANIFEST}: expected format 1 to {FORMAT} with base and sha256; a newer zoo may have written it"
        )
    _check_weights(folder, content)
    for name in content["sha256"]:
        if not is_safe(name):
            raise AdapterError(f"{folder / MANIFEST}: sha256 names {name!r}, which is no file beside it")
    return content


def _check_weights(folder: Path, content: Mapping[str, Any]) -> None:
    absent: dict[str, Any] | None = {} if content["format"] < FORMAT else None
    weights, replaced = content.get("weights", absent), content.get("replaced", absent)
    listed = (weights, content.get("buffers", {}))
    valid = all(isinstance(one, dict) and all(isinstance(entry, str) for entry in one.values()) for one in listed)
    if valid and isinstance(replaced, dict):
        valid = all(rows is None or _are_rows(rows) for rows in replaced.values())
    if not valid or not isinstance(replaced, dict):
        raise AdapterError(f"{folder / MANIFEST}: expected texts in weights, and rows or null in replaced")


def _are_rows(rows: Any) -> bool:
    return isinstance(rows, list) and all(type(row) is int and 0 <= row < 1 << 40 for row in rows)


def record(folder: Path) -> dict[str, Any]:
    """Return the folder's record for `model.records`; empty if it has no `zoo.json`."""
    return {key: value for key, value in (read(folder) or {}).items() if key not in ("format", "sha256")}


def bits_of(record: Mapping[str, Any]) -> int | str | None:
    """Return the `bits=` of the base that a record is of; None for the checkpoint's own."""
    average, bits = record.get("average"), record.get("bits")
    if isinstance(average, int | float):
        return f"auto:{average:g}"
    return bits if bits in (4, 8, 16, 32) else None


def check_base(
    adapters: AdapterSet, fields: Mapping[str, Any], content: Mapping[str, Any] | None, folder: Path
) -> None:
    """Raise `AdapterError` if the adapter was made for another base.

    Weights are compared one by one, without those that the adapter replaces, or by one fingerprint in older files; with
    no `zoo.json` names are, which is meaningful only for two Hub repositories.

    Args:
        adapters: the model's adapters.
        fields: PEFT's configuration.
        content: of `zoo.json`, or None.
        folder: the adapter's, for the error.
    """
    if content is not None:
        made_for, base = content["base"].get("fingerprint"), adapters.base
        found = None if base is None else _other_buffer(adapters, content.get("buffers", {}))
        if isinstance(made_for, str) and base is not None and (found or made_for != base.hexdigest()):
            apart = content.get("renamed")  # by the library, since the adapter was saved
            weights, replaced = content.get("weights"), {**content.get("replaced", {}), **(apart or {})}
            found = (base.difference(weights, replaced) if weights else None) or found
            if weights and found is None and (replaced or apart is not None or not base.same_types(weights)):
                return
            named = found if found is None or found.isprintable() else repr(found)  # it may be from the file
            first = f", first in {named:.200}{base.misfit(str(found), weights or {})}" if named else ""
            raise AdapterError(
                f"{folder}: made for the base {content['base'].get('name')!r} (fingerprint {made_for[:8]}), and "
                f"{adapters.entry.name!r} is another one ({base.hexdigest()[:8]}){first}; load that base"
            )
        return
    named, mine = fields.get("base_model_name_or_path"), hub_base(adapters)
    if mine and isinstance(named, str) and is_repository(named) and named != mine:
        raise AdapterError(f"{folder}: made for the base {named!r}, and this is {mine!r}; load that base")


def _other_buffer(adapters: AdapterSet, entries: Mapping[str, str]) -> str | None:
    """Return the name of the first of the base's buffers that is another one than its entry says; None for none."""
    from zoo.storage.fingerprint import sample

    values = adapters.buffers.of_base()
    for name, entry in sorted(entries.items()):
        if name not in values or not (values[name].is_meta or sample(values[name]).equals(entry)):
            return name
    return None


def check_replaced(content: Mapping[str, Any] | None, replaced: Replaced) -> None:
    """Raise `AdapterError` unless the adapter replaces what its `zoo.json` leaves out of the base.

    Args:
        content: of `zoo.json`, or None.
        replaced: what the adapter in the file replaces.
    """
    for name, rows in ((content or {}).get("replaced") or {}).items():
        own = replaced.get(name, ())
        if own is not None and (rows is None or not set(rows) <= set(own)):
            raise AdapterError(f"its {MANIFEST} leaves {name} out of the base, and the adapter does not replace it")


def saved_base(folder: Path, *, trusted: bool) -> BaseRef:
    """Return the base that the adapter in `folder` names, in `zoo.json` or else in PEFT's configuration.

    Args:
        folder: the adapter's.
        trusted: whether the base may be a path on this machine; an adapter from the Hub may only name registry entries
            and Hub repositories.

    Raises:
        AdapterError: the adapter names no base, or one that it may not name.
    """
    content = read(folder)
    if content is not None:
        base = content["base"]
        named = (base.get("name"), base.get("plugin"), base.get("weights"), _revision(base))
        source = MANIFEST
    else:
        fields = read_json(folder / ADAPTER_CONFIG) if (folder / ADAPTER_CONFIG).is_file() else {}
        named = (fields.get("base_model_name_or_path"), None, None, fields.get("revision") or None)
        source = ADAPTER_CONFIG
    if not named[0] or not all(value is None or isinstance(value, str) for value in named):
        raise AdapterError(
            f"{folder} holds an adapter, and its {source} names no base: load its base and give lora={str(folder)!r}"
        )
    found = BaseRef(*named)
    for name in (found.name, found.weights):
        if name is not None and not trusted and not _public(name):
            raise AdapterError(
                f"its {source} names the base {name!r}: expected a name in the registry or a Hub repository, and a "
                "path from a repository is not followed; load the base and give lora="
            )
    return found


def _revision(base: Mapping[str, Any]) -> Any:
    """Return the commit that the adapter was trained on; else the branch."""
    return base.get("commit") or base.get("revision")


def _public(name: str) -> bool:
    return is_repository(name) or is_entry_name(name)
