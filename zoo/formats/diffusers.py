"""What is diffusers' own in its LoRA files, `pytorch_lora_weights.safetensors`: the metadata.

Keys are module paths, after the component's name (`unet.`) if a pipeline wrote them. The scaling is given by `.alpha`
keys or by PEFT's configuration in the metadata `lora_adapter_metadata`; without either it is 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

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
