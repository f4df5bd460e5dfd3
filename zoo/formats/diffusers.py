"""diffusers' LoRA format, `pytorch_lora_weights.safetensors`, for one model or one component of a pipeline.

Keys are module paths with `.lora_A.weight` and `.lora_B.weight` (older: `.lora.down.weight`, `.lora.up.weight`,
`.lora_linear_layer.down.weight`, and the attention processors' `.processor.to_q_lora.down.weight`), all of them
after the component's name (`unet.`) if a pipeline wrote them. The scaling is given by `.alpha` keys or by PEFT's
configuration in the metadata `lora_adapter_metadata`; without either it is 1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from zoo.errors import AdapterError
from zoo.formats.low_rank import configuration
from zoo.formats.peft.keys import PREFIX
from zoo.storage.untrusted_json import parse_json
from zoo.weights.walk import library_modules

METADATA = "lora_adapter_metadata"
_FACTOR = re.compile(
    r"(?P<path>.+?)(?:(?P<attention>\.processor)?\.to_(?P<which>q|k|v|out)_lora|\.lora_linear_layer|\.lora)?"
    r"\.(?:lora_(?P<new>[AB])|(?P<old>down|up))\.weight"
)
_OTHER = re.compile(r"(?P<path>.+)\.(?P<what>alpha|lora_magnitude_vector)(?:\.weight)?")
_OLD = {"down": "A", "up": "B"}


def recognises(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether a file's keys are diffusers'."""
    return any(_FACTOR.fullmatch(key) for key in tensors)


def translate(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], module: nn.Module
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return PEFT's configuration and state dict.

    Args:
        tensors: the file's.
        metadata: of the file's header.
        module: the base model.

    Raises:
        AdapterError: a key is unknown or of no layer of `module`, or the file is incomplete.
    """
    layers = {path for path, _ in library_modules(module, remove_duplicate=False)}
    parsed = {key: _parse(key) for key in tensors}
    component = _component({path for path, _ in parsed.values()}, layers)
    found: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    for key, (path, what) in parsed.items():
        path = path.removeprefix(component).removeprefix(PREFIX)
        if path not in layers:
            raise AdapterError(f"{key!r} matches no layer of the model; it was made for another model")
        if what == "alpha":
            alphas[path] = _number(key, tensors[key])
            continue
        if what == "B" and tensors[key].dim() > 1:
            ranks[path] = tensors[key].shape[1]
        name = f"{PREFIX}{path}.{what}" if what == "lora_magnitude_vector" else f"{PREFIX}{path}.lora_{what}.weight"
        if name in found:
            raise AdapterError(f"{key!r}: the file has this factor twice, under two names")
        found[name] = tensors[key]
    if METADATA not in metadata and not alphas and any(key.startswith(PREFIX) for key in tensors):
        raise AdapterError("PEFT's tensors without PEFT's configuration, which has their scaling; give its folder")
    if METADATA in metadata:
        return _configuration(metadata[METADATA], component), found
    if not ranks:
        raise AdapterError("the file has no factor lora_B at all")
    dora = any(name.endswith("lora_magnitude_vector") for name in found)
    # Without alpha the product itself is the update.
    scaled = {path: alphas.get(path, float(rank)) for path, rank in ranks.items()}
    return configuration("LORA", ranks, scaled, use_dora=dora), found


def _parse(key: str) -> tuple[str, str]:
    """Return a key's module path, with any prefix, and which tensor of the module it is."""
    if match := _FACTOR.fullmatch(key):
        path = match["path"]
        if match["which"]:
            path += ".to_out.0" if match["which"] == "out" else f".to_{match['which']}"
        return path, match["new"] or _OLD[match["old"]]
    if match := _OTHER.fullmatch(key):
        return match["path"], match["what"]
    raise AdapterError(f"unexpected key {key!r} in a file of diffusers'")


def _component(paths: set[str], layers: set[str]) -> str:
    """Return the name of the pipeline's component, with its dot, that all paths begin with; "" if there is none."""
    if all(path.removeprefix(PREFIX) in layers for path in paths):
        return ""
    firsts = {path.partition(".")[0] for path in paths}
    if len(firsts) == 1:
        return firsts.pop() + "."
    inside = sorted(first for first in firsts if any(path.removeprefix(first + ".") in layers for path in paths))
    if inside:
        others = ", ".join(sorted(firsts - {inside[0]}))
        raise AdapterError(f"the file has adapters of several components, {inside[0]} and {others}: save one alone")
    return ""


def _configuration(text: str, component: str) -> dict[str, Any]:
    """Return PEFT's configuration from the metadata, in which a pipeline puts the component's name before each key."""
    fields = parse_json(text, f"its metadata {METADATA}")
    if "peft_type" not in fields:
        fields = {key.removeprefix(component): value for key, value in fields.items() if key.startswith(component)}
    return fields


def _number(key: str, tensor: Tensor) -> float:
    if tensor.numel() != 1 or not tensor.is_floating_point():
        raise AdapterError(f"{key!r}: expected one number, got a tensor of shape {tuple(tensor.shape)}")
    return float(tensor)
