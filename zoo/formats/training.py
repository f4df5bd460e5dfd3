"""What an adapter's record says of its training and of its evaluation, and what a run says of its model."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.data.spec import Data
from zoo.formats import manifest
from zoo.tuning.settings import described
from zoo.weights.walk import unwrapped

if TYPE_CHECKING:
    from zoo.adapters.adapter_set import AdapterSet
    from zoo.tuning.result import TuneResult

# Keys that further training makes outdated; the rest of a record stays.
_OUTDATED = (
    "base",
    "weights",
    "replaced",
    "buffers",
    "bits",
    "average",
    "scheme",
    "quantization_error",
    "versions",
    "metrics",
)

# Entries of a library's configuration that say where and by which version it was written.
_OF_FILES = ("transformers_version", "_diffusers_version", "_name_or_path", "_commit_hash", "torch_dtype", "dtype")


def identity(adapters: AdapterSet) -> dict[str, dict[str, Any]]:
    """Return what a training run depends on: of the model, its base, quantization and adapters, and the versions."""
    entry, module = adapters.entry, unwrapped(adapters.module)
    config = entry.config or _own_config(module)
    model = {
        "base": {
            "name": entry.name,
            "plugin": entry.plugin,
            "weights": entry.weights,
            "revision": entry.revision,
            "commit": manifest.base_commit(adapters),
            "fingerprint": adapters.fingerprint,
        },
        "class": f"{type(module).__module__}.{type(module).__qualname__}",
        "config": {name: value for name, value in config.items() if name not in _OF_FILES},
        "dtype": str(adapters.dtype).removeprefix("torch."),
        "scheme": None if adapters.scheme is None else asdict(adapters.scheme),
        "adapters": {
            name: {"kind": adapters.configs[name].kind, "weight": weight, **asdict(adapters.configs[name])}  # type: ignore[call-overload]
            for name, weight in adapters.weights.items()
        },
        "merged": list(adapters.merged),
    }
    return {"model": model, "versions": manifest.versions()}


def _own_config(module: Any) -> dict[str, Any]:
    """Return the configuration of a wrapped module of a library whose modules have one; else an empty one."""
    make = getattr(getattr(module, "config", None), "to_dict", None)
    found = make() if callable(make) else None
    return found if isinstance(found, dict) else {}


def note_tuning(adapters: AdapterSet, data: Any, result: TuneResult) -> None:
    """Add a training run to the records of the active adapters, which it has trained; none that took no step."""
    if not result.losses:
        return
    first = result.losses[: max(1, len(result.losses) // 10)]
    run: dict[str, Any] = {
        "data": data_name(data),
        "steps": result.steps,
        "batch_size": result.batch_size,
        "lr": result.lr,
        "first_loss": rounded(sum(first) / len(first)),
        "last_loss": rounded(result.loss),
    }
    if result.best_step is not None and result.evaluations:
        run["best_step"] = result.best_step
    if result.reports:
        run["examples"] = [
            {"unit": one.unit, "splits": dict(one.splits), "digest": one.digest} for one in result.reports
        ]
    for name in adapters.active:
        old = adapters.records.get(name, {})
        kept = {key: value for key, value in old.items() if key not in _OUTDATED}
        earlier = old.get("training")
        adapters.records[name] = {**kept, "training": [*(earlier if isinstance(earlier, list) else ()), run]}


def note_metrics(adapters: AdapterSet, data: Any, metrics: Mapping[str, float]) -> None:
    """Put an evaluation's metrics into the record of the active adapter; with several active, into none."""
    if len(adapters.active) == 1:
        finite = {name: rounded(value) for name, value in metrics.items() if math.isfinite(value)}
        record = adapters.records.setdefault(adapters.active[0], {})
        record["metrics"] = {"data": data_name(data), "figures": finite}


def data_name(data: Any) -> str:
    """Return the data's name for others to read: of a path on this machine only its last part."""
    if isinstance(data, Data):
        split = f", split {data.split}" if data.split else ""
        return f"{data_name(data.source)}{split}"
    if isinstance(data, str | os.PathLike):
        path = Path(data).expanduser()
        if path.exists() or path.is_absolute() or isinstance(data, os.PathLike):
            return path.resolve().name
    return described(data)


def rounded(value: float) -> float:
    """Return a number with six digits."""
    return float(f"{value:.6g}")
