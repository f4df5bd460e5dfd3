"""Samples as files, so that a run that goes on later still has those from before its first step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from zoo.bounded.json_text import read_object
from zoo.errors import ZooError
from zoo.plugin import hooks
from zoo.samples import Samples
from zoo.samples.samples import KINDS
from zoo.storage.atomic import save_tensors, write_json

if TYPE_CHECKING:
    from zoo.catalog.entry import Entry


def keep(samples: Samples, path: Path) -> None:
    """Write samples as `path` with the suffixes `.json` and `.safetensors`.

    Raises:
        OutputError: they cannot be written.
    """
    tensors = {"images": samples.images} if samples.images is not None else {}
    if isinstance(samples.data, Tensor):
        tensors["data"] = samples.data
    if tensors:
        save_tensors(path.with_suffix(".safetensors"), {name: one.detach().cpu() for name, one in tensors.items()})
    told = {"kind": samples.kind, "captions": samples.captions, "labels": samples.labels, "top": samples.top}
    write_json(path.with_suffix(".json"), {**told, "texts": None if "data" in tensors else list(samples.data)})


def kept(path: Path, entry: Callable[[], Entry] | None = None) -> Samples | None:
    """Return what `keep` wrote; None where it is missing or damaged.

    Args:
        path: as `keep` got it.
        entry: returns the entry of the model, whose plugin may have a kind of its own.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        told: dict[str, Any] = read_object(path.with_suffix(".json"))
        other = path.with_suffix(".safetensors")
        tensors = load_file(other) if other.is_file() else {}
        data = tensors.get("data", told["texts"])
        more = {"labels": told["labels"], "images": tensors.get("images"), "top": told["top"]}
        kind = told["kind"]
        if kind not in KINDS and entry is not None:
            kind = next(one for one in hooks.sample_kinds(entry()) or () if one.name == kind)
        return Samples(data, kind, told["captions"], **more)
    except (OSError, SafetensorError, ZooError, LookupError, TypeError, ValueError, StopIteration):
        return None
