"""The registries: TOML files with an entry for each model name that `zoo.load` takes.

zoo has one, `registry.toml`; a plugin's package can have another beside its `__init__.py`, which is read without
importing the package. One table per name::

    [gpt2]
    plugin = "gpt"                              # the architecture: an entry point in the group "zoo"
    summary = "GPT-2, 124M parameters"
    license = "MIT"
    weights = "openai-community/gpt2"           # a Hub repository, or "embedded": the folder in the plugin's package
    revision = "607a30d783dfa663caf39e06633721c8d4cfcd7e"   # the commit; without it, the newest one is used
    targets = ["c_attn"]                        # LoRA's default targets: suffixes of parameter paths; without it, all
    modules_to_save = ["ln_f"]                  # modules that train fully beside `lora=RANK`
    keep = ["wpe"]                              # suffixes of the parameters that stay in full precision
    [gpt2.config]                               # the configuration, so that the module can be built offline
    [gpt2.demo]                                 # arguments of `zoo demo gpt2`
    [gpt2.pretrain]                             # arguments of `Model.tune` for training it from random weights
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from zoo.bounded.toml_text import read_toml
from zoo.catalog import discovery
from zoo.catalog.entry import EMBEDDED, Entry, is_hub
from zoo.catalog.names import is_entry_name, is_repository
from zoo.catalog.pretrain import pretrain_settings
from zoo.errors import RegistryError, UnknownNameError, did_you_mean, shown

FILE = "registry.toml"

# Key → (type, name of the type in errors, whether it is required).
_KEYS: dict[str, tuple[type | tuple[type, ...], str, bool]] = {
    "plugin": (str, "a string", True),
    "summary": (str, "a string", True),
    "license": (str, "a string", True),
    "weights": (str, "a string", False),
    "revision": (str, "a string", False),
    "targets": ((list, str), 'a list of strings, or "all"', False),
    "modules_to_save": (list, "a list of strings", False),
    "keep": (list, "a list of strings", False),
    "config": (dict, "a table", False),
    "demo": (dict, "a table", False),
    "pretrain": (dict, "a table", False),
}
_LISTS = ("targets", "modules_to_save", "keep")


def entries() -> tuple[Entry, ...]:
    """Return the entries of all registries, sorted by name. Invalid registries of plugins are left out; see `problems`.

    Raises:
        RegistryError: zoo's own registry is not valid.
    """
    return tuple(entry for _, entry in sorted(_catalogue()[0].items()))


def problems() -> tuple[str, ...]:
    """Return the errors in plugins' registries, each with file, name and key."""
    return _catalogue()[1]


def forget() -> None:
    """Read the registries again at the next call."""
    _load.cache_clear()


def find(name: str) -> Entry:
    """Return the entry of a registry name.

    Raises:
        UnknownNameError: no registry has it; the message suggests the nearest name.
        RegistryError: two plugins' registries define it, or the file that defines it is not valid.
    """
    found, faults = _catalogue()
    if name in found:
        return found[name]
    about_name = [fault for fault in faults if f"[{name}]" in fault]
    if about_name:
        raise RegistryError(about_name[0])
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


# Reading the files


def _catalogue() -> tuple[dict[str, Entry], tuple[str, ...]]:
    return _load(tuple(discovery.claims().items()), tuple(_zoo_registry()))


@cache
def _load(
    claims: tuple[tuple[str, tuple[discovery.Claim, ...]], ...], zoo_files: tuple[Path, ...]
) -> tuple[dict[str, Entry], tuple[str, ...]]:
    found: dict[str, tuple[Entry, Path]] = {}
    faults: list[str] = []
    for path in zoo_files:
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
            if first not in zoo_files:  # neither of two plugins takes precedence
                ambiguous.add(entry.name)
    return {name: entry for name, (entry, _) in found.items() if name not in ambiguous}, tuple(faults)


def _zoo_registry() -> Iterator[Path]:
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
    """Return the entries of one registry file.

    Raises:
        RegistryError: the file is not valid; the message names file and key.
    """
    try:
        tables = read_toml(path, error=RegistryError)
    except FileNotFoundError as error:
        raise RegistryError(f"{path}: {error}") from error
    return [_entry(path, name, table) for name, table in tables.items()]


def _entry(path: Path, name: str, table: Any) -> Entry:
    where = f"{path}: [{name}]"
    if not isinstance(table, dict):
        raise RegistryError(f"{where}: expected a table, got {name} = {shown(table)}")
    if not is_entry_name(name):
        raise RegistryError(f"{where}: expected a name of letters, digits, '.', '_' and '-'")
    for key, value in table.items():
        if key not in _KEYS:
            raise RegistryError(
                f"{where} {key}: unknown key.{did_you_mean(key, _KEYS)} The keys are {', '.join(_KEYS)}"
            )
        kind, kind_name, _ = _KEYS[key]
        strings = not isinstance(value, list) or all(isinstance(item, str) and item for item in value)
        if not isinstance(value, kind) or not strings or value == "" or (key == "targets" and value == []):
            raise RegistryError(f"{where} {key}: expected {kind_name}, got {shown(value)}")
    missing = [key for key, (_, _, needed) in _KEYS.items() if needed and key not in table]
    if missing:
        raise RegistryError(f"{where} {missing[0]}: missing, every entry needs {', '.join(missing)}")
    weights, targets = table.get("weights"), table.get("targets")
    if weights is not None and weights != EMBEDDED and not is_repository(weights):
        raise RegistryError(f'{where} weights: expected "{EMBEDDED}" or a Hub repository owner/name, got {weights!r}')
    if isinstance(targets, str) and targets != "all":
        raise RegistryError(f'{where} targets: expected a list of strings, or "all", got {targets!r}')
    if "revision" in table and not is_hub(weights):
        raise RegistryError(f"{where} revision: only weights in a Hub repository have one")
    lists = {key: tuple(table[key]) for key in _LISTS if isinstance(table.get(key), list)}
    return Entry(name=name, **{**table, **lists, "pretrain": pretrain_settings(where, table.get("pretrain", {}))})
