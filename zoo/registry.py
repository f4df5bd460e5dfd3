"""The catalogue: which names ``zoo.load`` takes, and what each stands for.

zoo's own is ``registry.toml``; a plugin's package carries another beside its ``__init__.py``, which is read without
importing the package. One table per name::

    [gpt2]
    plugin = "gpt"                              # the architecture: an entry point in the group "zoo"
    summary = "GPT-2, 124M parameters"
    license = "MIT"
    weights = "openai-community/gpt2"           # a Hub repository, or "embedded": the folder in the plugin's package
    revision = "607a30d783dfa663caf39e06633721c8d4cfcd7e"   # the commit; without it, the newest one counts
    targets = ["c_attn"]                        # what LoRA adapts by default: suffixes of parameter paths, or "all"
    keep = ["wpe"]                              # what stays in full precision: suffixes
    [gpt2.config]                               # the configuration, so that the module can be built offline
    [gpt2.demo]                                 # what `zoo demo gpt2` does
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from zoo import discovery
from zoo.errors import CheckpointError, PluginError, RegistryError, UnknownNameError, did_you_mean

FILE = "registry.toml"
EMBEDDED = "embedded"
CONFIGS = ("config.json", "model_index.json")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

# Key → (type, how an error names the type, whether an entry must have it).
_KEYS: dict[str, tuple[type | tuple[type, ...], str, bool]] = {
    "plugin": (str, "a string", True),
    "summary": (str, "a string", True),
    "license": (str, "a string", True),
    "weights": (str, "a string", False),
    "revision": (str, "a string", False),
    "targets": ((list, str), 'a list of strings, or "all"', False),
    "keep": (list, "a list of strings", False),
    "config": (dict, "a table", False),
    "demo": (dict, "a table", False),
}


@dataclass(frozen=True)
class Entry:
    """What a name stands for.

    name: as the user gave it. plugin: the architecture's entry point; None for a module wrapped without one.
    weights: "embedded", a Hub repository, a local folder, or None where there are none.
    targets: LoRA's default targets (suffixes of parameter paths, or "all"); None leaves them to the plugin.
    keep: suffixes of the parameter paths that stay in full precision.
    folder: where the files lie, once resolved; None before, and where only the structure is wanted.
    adapter: the folder of the saved adapter that the name stands for, if it does; the rest is its base's.
    """

    name: str
    plugin: str | None
    weights: str | None = None
    revision: str | None = None
    license: str | None = None
    summary: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    targets: tuple[str, ...] | Literal["all"] | None = None
    keep: tuple[str, ...] = ()
    demo: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    source: Literal["registry", "hub", "folder", "module"] = "registry"
    adapter: Path | None = None


def entries() -> tuple[Entry, ...]:
    """Every entry of every registry, by name. A plugin's faulty registry is left out; ``problems()`` says why.

    Raises RegistryError if zoo's own registry is faulty.
    """
    return tuple(entry for _, entry in sorted(_catalogue()[0].items()))


def problems() -> tuple[str, ...]:
    """What is wrong with plugins' registries: file, name and key."""
    return _catalogue()[1]


def forget() -> None:
    """Read the registries again at the next call."""
    _load.cache_clear()


def find(name: str) -> Entry:
    """The entry of a registry name.

    Raises:
        UnknownNameError: no registry has it; the message has the nearest name.
        RegistryError: two plugins' registries define it, or the file that defines it is faulty.
    """
    found, faults = _catalogue()
    if name in found:
        return found[name]
    blamed = [fault for fault in faults if f"[{name}]" in fault]
    if blamed:
        raise RegistryError(blamed[0])
    left_out = f" (a registry is left out: {faults[0]})" if faults else ""
    if name in discovery.claims():
        names = [entry.name for entry in found.values() if entry.plugin == name]
        use = f"load one of {', '.join(names)}, " if names else "give "
        raise UnknownNameError(
            f"{name!r} is a plugin without a registry entry of its own name: {use}"
            f"a Hub repository (owner/name) or a local folder{left_out}"
        )
    raise UnknownNameError(
        f"no model {name!r} in the registry.{did_you_mean(name, found)} `zoo list` shows all; "
        f"a Hub repository is written owner/name, a local folder ./folder{left_out}"
    )


def resolve(
    name: str,
    weights: str | None = None,
    revision: str | None = None,
    *,
    download: bool = True,
    local: bool = True,
) -> Entry:
    """The entry of a registry name, Hub repository or local folder, with the folder that holds its files.

    weights: "embedded", a Hub repository or a local folder to take instead of the entry's own; revision: of the Hub
    repository. download=False leaves the folder of Hub weights None where the configuration is known without it;
    local=False takes no folder on this machine.

    Raises:
        UnknownNameError: there is no such name or folder, or no plugin recognises its configuration.
        CheckpointError: the folder holds no configuration, or the plugin carries no weights.
        AdapterError: an adapter names no base that can be found.
        HubError: the Hub refused or could not be reached.
    """
    name = str(name)
    if is_name(name):
        entry = find(name)
        if weights is None and revision is None:
            return _located(entry, download)
        if weights is None and not _is_hub(entry.weights):
            raise RegistryError(
                f"{name!r} has no Hub repository that revision {revision!r} could be of: give weights= too"
            )
        # Other weights may be of another configuration than the entry's: their own file is what counts.
        entry = _located(
            replace(entry, weights=weights or entry.weights, revision=revision), True, given=weights if local else None
        )
        return replace(entry, config=_config(entry.folder) or entry.config)
    return unnamed(name, weights, revision, local=local)


def _located(entry: Entry, download: bool, given: str | None = None) -> Entry:
    """``entry`` with its folder and, where the registry has none inline, its configuration.

    ``given``: the weights that the user named, which may be a local folder; a registry's never are.
    """
    if entry.weights is None:
        return entry
    if entry.weights == EMBEDDED:
        folder = _embedded(entry)
    elif given and Path(given).expanduser().is_dir():
        folder = Path(given).expanduser()
    elif not _REPOSITORY.fullmatch(entry.weights):
        raise UnknownNameError(f"weights {entry.weights!r}: expected a folder that exists, owner/name, or 'embedded'")
    elif entry.config and not download:
        return entry
    else:
        folder = _snapshot(entry.weights, entry.revision)
    return replace(entry, folder=folder, config=entry.config or _config(folder) or {})


def unnamed(name: str, weights: str | None, revision: str | None, *, local: bool = True, base: bool = False) -> Entry:
    """The entry of a local folder or Hub repository, whose plugin is the one that recognises its configuration.

    local: whether the name may be a folder on this machine; what a Hub repository names never is. base: whether it
    has to be a model and no adapter.
    """
    from zoo.adapters.base import entry_of
    from zoo.hub.adapters import get, is_adapter_folder, reference_of

    folder = Path(name).expanduser()
    source: Literal["hub", "folder"] = "folder"
    if local and folder.is_dir():
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
        folder, adapter = get(reference)
        if adapter and base:
            raise CheckpointError(f"{name!r} holds an adapter, expected the base of one")
        if adapter:
            return entry_of(folder, weights, revision if weights is not None else None, trusted=False)
        name, source = reference.repository, "hub"
        revision = reference.revision if weights is None else revision
    config = _config(folder)
    if config is None:
        raise CheckpointError(f"{name!r} holds neither {' nor '.join(CONFIGS)}: expected a model's folder")
    entry = Entry(name, _recognised(name, config), weights=name, revision=revision, config=config, source=source)
    if weights is not None:
        return _located(replace(entry, weights=weights, revision=revision), True, given=weights)
    return replace(entry, folder=folder, revision=revision)


def _recognised(name: str, config: dict[str, Any]) -> str:
    from zoo import host

    found = host.recognise(config)
    if len(found) == 1:
        return found[0]
    kind = config.get("_class_name") or config.get("model_type") or config.get("architecture") or "no class name"
    if found:
        raise PluginError(
            f"{name!r} ({kind}) is recognised by several plugins, {', '.join(found)}: "
            f"choose with ZOO_PLUGINS={found[0]}"
        )
    raise UnknownNameError(
        f"no plugin recognises {name!r} ({kind}); asked were {', '.join(discovery.claims()) or 'none'}. "
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


def _snapshot(repository: str, revision: str | None) -> Path:
    from zoo.hub import snapshot

    return snapshot(repository, revision)


def _config(folder: Path | None) -> dict[str, Any] | None:
    """What the folder's config.json or model_index.json holds; None if it has neither."""
    path = next((folder / name for name in CONFIGS if (folder / name).is_file()), None) if folder else None
    if path is None:
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got {type(config).__name__}")
    return config


def is_name(name: str) -> bool:
    """Whether ``zoo.load`` looks ``name`` up in the registry, and does not take it for a folder or Hub repository."""
    return not ("/" in name or "\\" in name or name in (".", "..") or name.startswith("~"))


def _is_hub(weights: str | None) -> bool:
    return weights is not None and weights != EMBEDDED


# Reading the files


def _catalogue() -> tuple[dict[str, Entry], tuple[str, ...]]:
    return _load(tuple(discovery.claims().items()), tuple(_own_file()))


@cache
def _load(
    claims: tuple[tuple[str, tuple[discovery.Claim, ...]], ...], own: tuple[Path, ...]
) -> tuple[dict[str, Entry], tuple[str, ...]]:
    found: dict[str, tuple[Entry, Path]] = {}
    faults: list[str] = []
    for path in own:
        found.update({entry.name: (entry, path) for entry in read(path)})
    ambiguous: set[str] = set()
    for path in dict.fromkeys(_package_files(claims)):
        try:
            read_entries = read(path)
        except RegistryError as error:
            if discovery.strict():
                raise
            faults.append(str(error))
            continue
        for entry in read_entries:
            if entry.name not in found:
                found[entry.name] = (entry, path)
                continue
            first = found[entry.name][1]
            faults.append(f"{path}: [{entry.name}] is defined in {first} already: rename one of them")
            if first not in own:  # neither of two strangers goes before the other
                ambiguous.add(entry.name)
    return {name: entry for name, (entry, _) in found.items() if name not in ambiguous}, tuple(faults)


def _own_file() -> Iterator[Path]:
    from importlib.resources import files

    package = Path(str(files("zoo")))
    for path in (package / FILE, package.parent / FILE):  # installed; editable
        if path.is_file():
            yield path
            return
    raise RegistryError(f"zoo's own {FILE} is missing beside {package}: reinstall adapter-zoo")


def _package_files(claims: tuple[tuple[str, tuple[discovery.Claim, ...]], ...]) -> Iterator[Path]:
    for _, found in claims:
        for claim in found:
            folder = discovery.package_folder(claim.package)
            if folder is not None and (folder / FILE).is_file():
                yield folder / FILE


def read(path: Path) -> list[Entry]:
    """The entries of one registry file.

    Raises RegistryError, naming file and key, for anything that is not as it should be.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RegistryError(f"{path}: {error}") from error
    return [_entry(path, name, table) for name, table in tables.items()]


def _entry(path: Path, name: str, table: Any) -> Entry:
    where = f"{path}: [{name}]"
    if not isinstance(table, dict):
        raise RegistryError(f"{where}: expected a table, got {name} = {table!r}")
    if not _NAME.fullmatch(name):
        raise RegistryError(f"{where}: expected a name of letters, digits, '.', '_' and '-'")
    for key, value in table.items():
        if key not in _KEYS:
            raise RegistryError(
                f"{where} {key}: unknown key.{did_you_mean(key, _KEYS)} The keys are {', '.join(_KEYS)}"
            )
        kind, called, _ = _KEYS[key]
        strings = not isinstance(value, list) or all(isinstance(item, str) and item for item in value)
        if not isinstance(value, kind) or not strings or value == "" or (key == "targets" and value == []):
            raise RegistryError(f"{where} {key}: expected {called}, got {value!r}")
    missing = [key for key, (_, _, needed) in _KEYS.items() if needed and key not in table]
    if missing:
        raise RegistryError(f"{where} {missing[0]}: missing, every entry needs {', '.join(missing)}")
    weights, targets = table.get("weights"), table.get("targets")
    if weights is not None and weights != EMBEDDED and not _REPOSITORY.fullmatch(weights):
        raise RegistryError(f'{where} weights: expected "{EMBEDDED}" or a Hub repository owner/name, got {weights!r}')
    if isinstance(targets, str) and targets != "all":
        raise RegistryError(f'{where} targets: expected a list of strings, or "all", got {targets!r}')
    if "revision" in table and not _is_hub(weights):
        raise RegistryError(f"{where} revision: only weights in a Hub repository have one")
    lists = {key: tuple(table[key]) for key in ("targets", "keep") if isinstance(table.get(key), list)}
    return Entry(name=name, **{**table, **lists})
