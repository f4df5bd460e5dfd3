"""What is diffusers' own in its LoRA files, `pytorch_lora_weights.safetensors`: names and metadata, read and written.

Keys are module paths, after the component's name (`unet.`) if a pipeline wrote them. The scaling is given by `.alpha`
keys or by PEFT's configuration in the metadata `lora_adapter_metadata`; without either it is 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from zoo.errors import AdapterError
from zoo.formats.peft.config import patterned
from zoo.formats.peft.keys import PREFIX, WRAPPED, ZOO_PREFIX
from zoo.methods.peft_fields import lora_from_peft
from zoo.storage.untrusted_json import parse_json

METADATA = "lora_adapter_metadata"


def configuration(text: str, components: Iterable[str]) -> dict[str, Any]:
    """Return PEFT's configuration from the metadata, in which a pipeline puts the component's name before each key.

    Args:
        text: the metadata.
        components: what was before the paths of the file's keys.

    Raises:
        AdapterError: it is no JSON object.
    """
    fields = parse_json(text, f"its metadata {METADATA}")
    if "peft_type" in fields:
        return fields
    return {
        key.removeprefix(component): value
        for component in components
        for key, value in fields.items()
        if key.startswith(component)
    }


def tensors(
    fields: Mapping[str, Any], state: Mapping[str, Tensor], component: str
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the file's tensors, and the configuration for its metadata.

    The scale is in B, so that alpha is the rank: readers of the tensors alone, and earlier releases of diffusers, which
    know no metadata, take it for that; diffusers before 0.40 only where all layers have one rank.

    Args:
        fields: PEFT's configuration.
        state: PEFT's state dict.
        component: the name of the component of a pipeline, or "".

    Raises:
        AdapterError: the format has no place for a tensor.
    """
    start, made = f"{component}." if component else "", {}
    ranks: dict[str, int] = {}
    config = lora_from_peft({**fields, "peft_type": "LORA"})
    for key, tensor in state.items():
        name = key.removeprefix(PREFIX).removeprefix(ZOO_PREFIX)
        path, factor, what = name.rpartition(".lora_")
        if key.startswith(ZOO_PREFIX) or not factor or WRAPPED in name or fields["target_parameters"]:
            raise AdapterError(
                f"{name}: diffusers' format has the factors of layers that PEFT adapts, and no place for this: save it "
                "with format='peft'"
            )
        if what in ("B.weight", "embedding_B"):
            ranks[path] = config.rank_of(path)
            tensor = tensor * config.scale_of(path)
        made[start + name] = tensor
    usual = {"bias": "none", "inference_mode": True, "init_lora_weights": True, "task_type": None}
    kept = ("target_modules", "lora_dropout", "use_dora", "fan_in_fan_out")
    said = patterned("LORA", ranks, ranks, **usual) | {key: fields[key] for key in kept} if ranks else {}
    return made, {start + key: value for key, value in said.items()}
