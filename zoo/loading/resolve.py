"""Resolve a name (of the registry, a Hub repository, a folder, a saved adapter) to an entry with its files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from zoo.bounded.json_text import read_object
from zoo.bounded.regular import check_folder
from zoo.catalog import discovery
from zoo.catalog.entry import EMBEDDED, RANDOM, Entry, is_hub
from zoo.catalog.limits import check_limits
from zoo.catalog.names import is_name, is_repository
from zoo.catalog.registry import find
from zoo.errors import AdapterError, CheckpointError, PluginError, RegistryError, UnknownNameError, shown
from zoo.formats.manifest import saved_base
from zoo.hub.adapters import fetch_place, is_adapter_folder, reference_of
from zoo.hub.download import snapshot
from zoo.plugin import hooks
from zoo.storage.file_names import MODEL_CONFIGS
from zoo.storage.sums import verify_companions


def resolve(
    name: str,
    weights: str | None = None,
    revision: str | None = None,
    *,
    download: bool = True,
    local: bool = True,
) -> Entry:
    """Return the entry of a registry name, Hub repository or local folder, with the folder of its files.

    Args:
        name: as `zoo.load` takes it.
        weights: "embedded", a Hub repository or a local folder to use instead of the entry's; "random": none at all.
        revision: of the Hub repository.
        download: False leaves the folder of Hub weights None if the configuration is known without it.
        local: False refuses folders on this machine.

    Raises:
        UnknownNameError: there is no such name or folder, or no plugin recognises its configuration.
        CheckpointError: the folder has no configuration, one that no model has, or the plugin no embedded weights.
        AdapterError: an adapter's base cannot be found.
        HubError: the Hub refused or could not be reached.
    """
    entry = _resolve(str(name), weights, revision, download, local)
    check_limits(entry)
    return entry


def _resolve(name: str, weights: str | None, revision: str | None, download: bool, local: bool) -> Entry:
    if weights == RANDOM:
        # Only what the configuration does not say inline is downloaded.
        entry = resolve(name, revision=revision, download=False, local=local)
        if entry.adapter is not None:
            raise AdapterError(f"{name!r} is a saved adapter, which random weights do not fit: give its base's name")
        return replace(entry, weights=RANDOM)
    if is_name(name):
        entry = find(name)
        if weights is None and revision is None:
            return _located(entry, download)
        if weights is None and not is_hub(entry.weights):
            raise RegistryError(
                f"{name!r} has no Hub repository that revision {revision!r} could be of: give weights= too"
            )
        # Other weights may have another configuration than the entry's: their own file takes precedence.
        entry = _located(
            replace(entry, weights=weights or entry.weights, revision=revision), True, given=weights if local else None
        )
        return replace(entry, config=_config(entry.folder) or entry.config)
    return unnamed(name, weights, revision, local=local)


def _located(entry: Entry, download: bool, given: str | None = None) -> Entry:
    """Return `entry` with its folder and, if the registry has none inline, its configuration.

    `given` are the weights that the user named: only they may be a local folder, never a registry's.
    """
    if entry.weights is None:
        return entry
    if entry.weights == EMBEDDED:
        folder = _embedded(entry)
    elif given and Path(given).expanduser().is_dir():
        folder = Path(given).expanduser()
        check_folder(folder, CheckpointError)
    elif not is_repository(entry.weights):
        raise UnknownNameError(f"weights {entry.weights!r}: expected a folder that exists, owner/name, or 'embedded'")
    elif entry.config and not download:
        return entry
    else:
        folder = snapshot(entry.weights, entry.revision)
    return replace(entry, folder=folder, config=entry.config or _config(folder) or {})


def unnamed(name: str, weights: str | None, revision: str | None, *, local: bool = True, base: bool = False) -> Entry:
    """Return the entry of a local folder or Hub repository; its plugin is the one that recognises its configuration.

    Args:
        name: the folder or repository.
        weights: as in `resolve`.
        revision: as in `resolve`.
        local: whether the name may be a folder on this machine; a name from a Hub repository may not.
        base: whether it has to be a model and no adapter.

    Raises:
        UnknownNameError: there is no such place, or no plugin recognises its configuration.
        CheckpointError: it has no configuration, or is an adapter where a base is needed.
        AdapterError: it is an adapter whose base cannot be found.
        HubError: the Hub refused or could not be reached.
    """
    folder = Path(name).expanduser()
    source: Literal["hub", "folder"] = "folder"
    if local and folder.is_dir():
        check_folder(folder, CheckpointError)
        if is_adapter_folder(folder):
            if base:
                raise CheckpointError(f"{name!r} holds an adapter, expected the base of one")
            return entry_of(folder, weights, revision, trusted=True)
        if revision is not None and weights is None:
            raise UnknownNameError(
                f"{name!r} is a local folder, which has no revision {revision!r}: leave revision out"
            )
    else:
        reference = reference_of(name, revision if weights is None else None)
        folder, adapter = fetch_place(reference)
        if adapter and base:
            raise CheckpointError(f"{name!r} holds an adapter, expected the base of one")
        if adapter:
            return entry_of(folder, weights, revision if weights is not None else None, trusted=False)
        name, source = reference.repository, "hub"
        revision = reference.revision if weights is None else revision
    config = _config(folder)
    if config is None:
        raise CheckpointError(f"{name!r} holds neither {' nor '.join(MODEL_CONFIGS)}: expected a model's folder")
    entry = Entry(name, _recognised(name, config), weights=name, revision=revision, config=config, source=source)
    if weights is not None:
        return _located(replace(entry, weights=weights, revision=revision), True, given=weights)
    return replace(entry, folder=folder, revision=revision)


def _recognised(name: str, config: dict[str, Any]) -> str:
    found = hooks.recognise(config)
    if len(found) == 1:
        return found[0]
    kind = config.get("_class_name") or config.get("model_type") or config.get("architecture") or "no class name"
    kind = kind if isinstance(kind, str) else shown(kind)
    if found:
        by = {name: next(iter(discovery.claims().get(name, ())), None) for name in found}
        named = " and ".join(f"{name} ({one.distribution} {one.version})" if one else name for name, one in by.items())
        raise PluginError(
            f"{name!r} ({kind}) is recognised by several plugins, {named}: "
            f"choose one in the environment, ZOO_PLUGINS={found[0]}, or uninstall the other"
        )
    raise UnknownNameError(
        f"no plugin recognises {name!r} ({kind}); tried {', '.join(discovery.claims()) or 'none'}: "
        "`zoo plugins --quick` shows which of them do not load"
    )


def _embedded(entry: Entry) -> Path:
    claim = discovery.claim(str(entry.plugin))
    package = discovery.package_folder(claim.package)
    folder = package / EMBEDDED if package else None
    if folder is None or not folder.is_dir():
        raise CheckpointError(
            f"{entry.name!r} should find its weights in {claim.package}/{EMBEDDED}, which {claim.distribution} "
            f"{claim.version} does not hold: reinstall it, or give weights="
        )
    return folder


def _config(folder: Path | None) -> dict[str, Any] | None:
    """Return the content of the folder's config.json or model_index.json; None if it has neither."""
    path = next((folder / name for name in MODEL_CONFIGS if (folder / name).is_file()), None) if folder else None
    if path is None:
        return None
    verify_companions(path.parent)
    return read_object(path)


def entry_of(adapter: Path, weights: str | None, revision: str | None, *, trusted: bool) -> Entry:
    """Return the entry of a saved adapter's base model, at the commit that the adapter was trained on.

    Args:
        adapter: the adapter's folder.
        weights: overrides the weights in the adapter's metadata.
        revision: overrides the revision, if `weights` are given.
        trusted: whether the metadata may name a folder on this machine.

    Raises:
        AdapterError: the metadata names no base, or one of another architecture.
    """
    base = saved_base(adapter, trusted=trusted)
    local = trusted or weights is not None
    if weights is None:
        weights, revision = base.weights, base.revision
    if not is_name(base.name):
        entry = unnamed(weights or base.name, None, revision, local=local, base=True)
    else:
        known = find(base.name)
        if weights in (None, known.weights) and revision in (None, known.revision):
            weights = revision = None
        entry = resolve(base.name, weights, revision, local=local)
    if base.plugin is not None and base.plugin != entry.plugin:
        raise AdapterError(
            f"{adapter}: made for the architecture {base.plugin!r}, and its base {base.name!r} is of {entry.plugin!r}; "
            "load the base that it was made for and give lora="
        )
    return replace(entry, adapter=adapter)
