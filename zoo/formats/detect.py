"""Read the files of other tools' adapters as PEFT's: diffusers, LyCORIS, kohya, ComfyUI, OneTrainer.

`spellings.py` has how each tool writes a key, `paths.py` finds the layers, `lycoris.py` and `differences.py` read what
is then the same for all.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from zoo.errors import AdapterError
from zoo.formats import diffusers, lycoris, paths, spellings
from zoo.formats.peft.keys import PREFIX
from zoo.storage.file_names import ADAPTER_CONFIG, ADAPTER_TENSORS, DIFFUSERS_TENSORS, PICKLES

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


def as_peft(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, str], module: nn.Module
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the content of an adapter's file as PEFT's configuration and state dict.

    Keys for another part of a pipeline are left out and named in a warning.

    Args:
        path: the file, for a warning.
        tensors: in it.
        metadata: of it.
        module: the base model, whose layers the keys name.

    Raises:
        AdapterError: it is in no known format, or made for another model.
    """
    if not tensors:
        raise AdapterError("the file holds no adapter at all")
    parsed = {name: spellings.parse(name) for name in tensors}
    known = [key for key in parsed.values() if key is not None]
    unknown = next((name for name, key in parsed.items() if key is None), None)
    if not known:
        shown = ", ".join(repr(name) for name in list(tensors)[:2])
        raise AdapterError(f"no adapter that zoo knows, its keys are {shown}; expected PEFT's, diffusers' or LyCORIS's")
    if unknown is not None:
        raise AdapterError(
            f"unexpected key {unknown!r}: expected a layer's path and lora_A.weight, lora_up.weight, alpha and the like"
        )
    found = paths.find(known, tensors, module)
    if found.others:
        _name(path, found.others, module)
    layers = {
        layer: {part: spellings.widened(tensors[key.name]) for part, key in parts.items()}
        for layer, parts in found.layers.items()
    }
    fields, state = lycoris.translate(layers, module)
    if diffusers.METADATA in metadata:
        fields = diffusers.configuration(metadata[diffusers.METADATA], found.prefixes)
    elif not any("alpha" in parts for parts in layers.values()) and any(n.startswith(PREFIX) for n in tensors):
        raise AdapterError("PEFT's tensors without PEFT's configuration, which has their scaling; give its folder")
    return fields, state


def _name(path: Path, others: dict[str, list[str]], module: nn.Module) -> None:
    """Say which keys of a file are not for this model."""
    shown = "; ".join(f"{len(names)} of {prefix} ({names[0]!r}, …)" for prefix, names in others.items())
    logging.getLogger("zoo").warning(
        f"{path}: {sum(map(len, others.values()))} of its tensors are for another part of a pipeline than "
        f"{type(module).__name__} and are left out: {shown}"
    )
