"""`zoo.json`: for which base a saved adapter is, how it was made, and the sha256 of the files beside it.

What is known of an adapter beyond its configuration is its *record*, `model.records[name]`: the content of
`zoo.json` without its format and digests. A loaded adapter keeps the record that it came with until it is trained
again, so that saving it once more writes the same bytes.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from zoo.catalog.names import is_repository, is_safe
from zoo.errors import AdapterError
from zoo.storage import atomic, untrusted_json
from zoo.storage.file_names import ADAPTER_CONFIG, ADAPTER_TENSORS, MANIFEST, PICKLES

if TYPE_CHECKING:
    from zoo.adapters.adapter_set import AdapterSet
    from zoo.tuning.result import TuneResult

FORMAT = 2  # 1 had no architecture, kind, versions, training and metrics
LIBRARIES = ("torch", "transformers", "diffusers", "timm", "torch-geometric", "peft", "bitsandbytes")
# What a further training makes untrue; the rest of a record stays as it was.
_OUTDATED = ("base", "bits", "scheme", "versions", "metrics")


class BaseRef(NamedTuple):
    """The base that a saved adapter says it is for.

    name: a registry name, a Hub repository or (never from the Hub) a local folder. weights, revision: what to read
    instead of the name's own, or None.
    """

    name: str
    plugin: str | None = None
    weights: str | None = None
    revision: str | None = None


def hub_base(adapters: AdapterSet) -> str | None:
    """The Hub repository that the model's weights came from, where they did."""
    weights = adapters.entry.weights
    from_hub = weights and is_repository(weights) and not Path(weights).exists()
    return weights if from_hub else None


def base_commit(adapters: AdapterSet) -> str | None:
    """The commit that the base's weights were read from, where they came from the Hub."""
    folder = adapters.entry.folder.name if adapters.entry.folder is not None and hub_base(adapters) else ""
    return folder if re.fullmatch(r"[0-9a-f]{40}", folder) else None


def describe(adapters: AdapterSet, name: str, staged: Path) -> dict[str, Any]:
    """What `zoo.json` says of the adapter `name`, whose files lie in `staged`."""
    config, entry = adapters.configs[name], adapters.entry
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
        },
        "bits": adapters.scheme.bits if adapters.scheme else None,
        "scheme": adapters.scheme.scheme if adapters.scheme else None,
        "versions": versions(),
    }
    return {"format": FORMAT, **fresh, **adapters.records.get(name, {}), "sha256": digests(staged)}


def digests(folder: Path) -> dict[str, str]:
    """File → sha256 of the files in `folder` itself, `zoo.json` excepted."""
    return {
        path.name: atomic.digest(path) for path in sorted(folder.iterdir()) if path.is_file() and path.name != MANIFEST
    }


def versions() -> dict[str, str]:
    """zoo's version and those of the libraries that are installed, from their metadata: none is imported."""
    from importlib.metadata import PackageNotFoundError, version

    from zoo._version import __version__

    found = {"zoo": __version__}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


# What happens to an adapter


def note_tuning(adapters: AdapterSet, data: Any, result: TuneResult) -> None:
    """Add a run to the records of the active adapters, which it has trained."""
    first = result.losses[: max(1, len(result.losses) // 10)]
    run = {
        "data": data_name(data),
        "steps": result.steps,
        "batch_size": result.batch_size,
        "lr": result.lr,
        "seconds": round(result.seconds, 1),
        "first_loss": _figure(sum(first) / max(1, len(first))),
        "last_loss": _figure(result.loss),
    }
    for name in adapters.active:
        old = adapters.records.get(name, {})
        kept = {key: value for key, value in old.items() if key not in _OUTDATED}
        earlier = old.get("training")
        adapters.records[name] = {**kept, "training": [*(earlier if isinstance(earlier, list) else ()), run]}


def note_metrics(adapters: AdapterSet, data: Any, figures: Mapping[str, float]) -> None:
    """Put what an evaluation found into the record of the active adapter; of several none can claim it."""
    if len(adapters.active) == 1:
        finite = {name: _figure(value) for name, value in figures.items() if math.isfinite(value)}
        record = adapters.records.setdefault(adapters.active[0], {})
        record["metrics"] = {"data": data_name(data), "figures": finite}


def data_name(data: Any) -> str:
    """What the data is called where others read it: never a path on this machine, only the name at its end."""
    from zoo.tuning.settings import described

    if isinstance(data, str | os.PathLike):
        path = Path(data).expanduser()
        if path.exists() or path.is_absolute() or isinstance(data, os.PathLike):
            return path.resolve().name
    return described(data)


def _figure(value: float) -> float:
    return float(f"{value:.6g}")


# Reading


def read_json(path: Path) -> dict[str, Any]:
    """The object in an adapter's JSON file. What zoo.json says is written again, and NaN could not be."""
    return untrusted_json.read_json(path, strict=path.name == MANIFEST)


def read(folder: Path) -> dict[str, Any] | None:
    """The folder's `zoo.json`, of this format or an older one; None where there is none."""
    if not (folder / MANIFEST).is_file():
        return None
    own = read_json(folder / MANIFEST)
    known = own.get("format") in range(1, FORMAT + 1) and not isinstance(own.get("format"), bool)
    if not known or not isinstance(own.get("base"), dict) or not isinstance(own.get("sha256"), dict):
        raise AdapterError(
            f"{folder / MANIFEST}: expected format 1 to {FORMAT} with base and sha256; a newer zoo may have written it"
        )
    for name in own["sha256"]:
        if not is_safe(name):
            raise AdapterError(f"{folder / MANIFEST}: sha256 names {name!r}, which is no file beside it")
    return own


def record(folder: Path) -> dict[str, Any]:
    """What a folder's `zoo.json` says, for `model.records`; nothing where there is none."""
    return {key: value for key, value in (read(folder) or {}).items() if key not in ("format", "sha256")}


def check_files(folder: Path, own: Mapping[str, Any] | None) -> None:
    for name in (ADAPTER_CONFIG, ADAPTER_TENSORS):
        if not (folder / name).is_file():
            pickled = folder / PICKLES[0]
            if name == ADAPTER_TENSORS and pickled.is_file():
                raise AdapterError(
                    f"{pickled}: a pickle, which zoo does not execute; save the adapter as {ADAPTER_TENSORS}"
                )
            raise AdapterError(f"{folder}: no {name}, expected an adapter in PEFT's format")
        if own is not None and atomic.digest(folder / name) != own["sha256"].get(name):
            raise AdapterError(
                f"{folder / name}: damaged or changed, its sha256 is not the one in {MANIFEST}; get it again"
            )


def check_base(adapters: AdapterSet, raw: Mapping[str, Any], own: Mapping[str, Any] | None, folder: Path) -> None:
    """By the fingerprint where there is one; else by name, which tells something only between two Hub repositories."""
    if own is not None:
        made_for = own["base"].get("fingerprint")
        if isinstance(made_for, str) and adapters.fingerprint and made_for != adapters.fingerprint:
            raise AdapterError(
                f"{folder}: made for the base {own['base'].get('name')!r} (fingerprint {made_for[:8]}), and "
                f"{adapters.entry.name!r} is another one ({adapters.fingerprint[:8]}); load that base"
            )
        return
    base, mine = raw.get("base_model_name_or_path"), hub_base(adapters)
    if mine and isinstance(base, str) and is_repository(base) and base != mine:
        raise AdapterError(f"{folder}: made for the base {base!r}, and this is {mine!r}; load that base")


def saved_base(folder: Path, *, trusted: bool) -> BaseRef:
    """The base that the adapter in `folder` names, in `zoo.json` or else in PEFT's configuration.

    trusted: whether it may be a path on this machine; what lies in a Hub repository may only name registry entries
    and Hub repositories. Raises `AdapterError` where it names none.
    """
    own = read(folder)
    if own is not None:
        base = own["base"]
        said = (base.get("name"), base.get("plugin"), base.get("weights"), _revision(base))
        source = MANIFEST
    else:
        raw = read_json(folder / ADAPTER_CONFIG) if (folder / ADAPTER_CONFIG).is_file() else {}
        said = (raw.get("base_model_name_or_path"), None, None, raw.get("revision") or None)
        source = ADAPTER_CONFIG
    if not said[0] or not all(value is None or isinstance(value, str) for value in said):
        raise AdapterError(
            f"{folder} holds an adapter, and its {source} names no base: load its base and give lora={str(folder)!r}"
        )
    found = BaseRef(*said)
    for named in (found.name, found.weights):
        if named is not None and not trusted and not _public(named):
            raise AdapterError(
                f"its {source} names the base {named!r}: expected a name in the registry or a Hub repository, and a "
                "path from a repository is not followed; load the base and give lora="
            )
    return found


def _revision(base: Mapping[str, Any]) -> Any:
    """The commit that the adapter was trained on, before the branch that it was on at the time."""
    return base.get("commit") or base.get("revision")


def _public(name: str) -> bool:
    return is_repository(name) or re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) is not None
