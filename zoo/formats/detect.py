"""Recognise the file formats of other libraries' adapters by their keys, and read them as PEFT's.

A new format is a module with `recognises` and `translate`, like `diffusers.py`, and an entry in `READERS`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from zoo.errors import AdapterError
from zoo.formats import diffusers, lycoris
from zoo.storage.file_names import ADAPTER_CONFIG, ADAPTER_TENSORS, DIFFUSERS_TENSORS, PICKLES
from zoo.storage.untrusted import read_tensors

READERS = (lycoris, diffusers)
NO_ADAPTER = f"expected an adapter in PEFT's format ({ADAPTER_CONFIG}, {ADAPTER_TENSORS}) or one .safetensors"


def find(place: Path) -> Path:
    """Return the adapter's safetensors file: `place` itself, or the only adapter in that folder.

    Raises:
        AdapterError: there is none, or several, or only a pickle.
    """
    if place.is_file():
        if place.suffix != ".safetensors":
            raise AdapterError(f"{place}: not a safetensors file, and zoo reads no pickles; save it as .safetensors")
        return place
    if (place / ADAPTER_TENSORS).is_file() or (place / PICKLES[0]).is_file():
        raise AdapterError(f"{place}: no {ADAPTER_CONFIG}, {NO_ADAPTER} file of another library")
    found = sorted(place.glob("*.safetensors"))
    if place / DIFFUSERS_TENSORS in found:
        return place / DIFFUSERS_TENSORS
    folders = sorted(path.parent.name for path in place.glob(f"*/{ADAPTER_CONFIG}"))
    if folders:
        raise AdapterError(f"{place}: no adapter itself, it holds several in folders: give one of {', '.join(folders)}")
    if len(found) == 1:
        return found[0]
    pickles = sorted([*place.glob("*.bin"), *place.glob("*.pt"), *place.glob("*.ckpt")])
    if pickles and not found:
        raise AdapterError(f"{pickles[0]}: a pickle, which zoo does not execute; save the adapter as safetensors")
    raise AdapterError(f"{place}: no {ADAPTER_CONFIG} and {len(found)} .safetensors files; {NO_ADAPTER} file")


def read(path: Path, module: nn.Module) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read an adapter's file as PEFT's configuration and state dict.

    Args:
        path: a safetensors file.
        module: the base model, whose layers the keys name.

    Raises:
        AdapterError: the file is damaged, in no known format, or made for another model.
    """
    tensors, metadata = read_tensors(path)
    if not tensors:
        raise AdapterError("the file holds no adapter at all")
    for reader in READERS:
        if reader.recognises(tensors):
            return reader.translate(tensors, metadata, module)
    shown = ", ".join(repr(name) for name in list(tensors)[:2])
    raise AdapterError(f"no adapter that zoo knows, its keys are {shown}; expected PEFT's, diffusers' or LyCORIS's")
