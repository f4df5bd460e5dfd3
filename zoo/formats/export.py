"""Write an adapter in another tool's format: diffusers' LoRA files, kohya's and LyCORIS's."""

from __future__ import annotations

import json
import re
from pathlib import Path

from zoo.adapters.adapter_set import AdapterSet
from zoo.errors import AdapterError, OutputError
from zoo.formats import diffusers, kohya
from zoo.formats.peft import write as peft_write
from zoo.methods.config import LoRA
from zoo.storage import atomic
from zoo.storage.file_names import ADAPTER_CONFIG, ADAPTER_TENSORS, DIFFUSERS_TENSORS
from zoo.weights.walk import unwrapped

FORMATS = ("peft", "diffusers", "kohya")
_PREFIX = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Names of classes of diffusers and transformers → what the files of their pipelines have before a path, in diffusers
# and in kohya's scripts.
_COMPONENTS: tuple[tuple[str, tuple[str, str]], ...] = (
    (r"UNet(2DCondition|Motion)Model", ("unet", "lora_unet")),
    (r"\w+Transformer[23]DModel", ("transformer", "lora_transformer")),
    (r"(CLIPTextModel(WithProjection)?|T5EncoderModel)", ("text_encoder", "lora_te")),
)


def check_format(format: str, prefix: str | None) -> None:
    """Raise `AdapterError` for a format that is not known, or a prefix that it has not."""
    if format not in FORMATS:
        raise AdapterError(f"format: expected one of {', '.join(map(repr, FORMATS))}, got {format!r}")
    if prefix is not None and (format == "peft" or not isinstance(prefix, str) or not _PREFIX.fullmatch(prefix)):
        raise AdapterError(
            "prefix: expected letters, digits and '_', and a format that has one ('diffusers' or 'kohya'), got "
            f"{prefix!r} for {format!r}"
        )


def check_folder(folder: Path, format: str, name: str) -> None:
    """Raise `OutputError` if a folder holds files that would be read instead of, or beside, the ones to be written."""
    if format == "peft" or not folder.is_dir():
        return
    others = {path.name for path in folder.glob("*.safetensors")} - {_file(format, name)}
    others |= {one for one in (ADAPTER_CONFIG, ADAPTER_TENSORS) if (folder / one).exists()}
    if others:
        raise OutputError(
            f"{folder}: holds {min(others)}, which would be taken for this adapter: choose another folder"
        )


def write(adapters: AdapterSet, folder: Path, name: str, format: str, prefix: str | None) -> None:
    """Write an adapter's file of a format other than PEFT's.

    Args:
        adapters: the model's adapters.
        folder: where to.
        name: the adapter's name.
        format: "diffusers" or "kohya".
        prefix: what its keys begin with; None for what pipelines with such a model expect.

    Raises:
        AdapterError: the format has no place for a part of the adapter.
    """
    module, config = adapters.module, adapters.configs[name]
    usual = next((two for kind, two in _COMPONENTS if re.fullmatch(kind, type(unwrapped(module)).__name__)), None)
    if format == "kohya":
        for buffer in adapters.buffers.own.get(name, ()):
            raise AdapterError(f"{buffer}: kohya's format has no place for a buffer; save it with format='peft'")
        prefix = prefix or (usual[1] if usual else "lycoris")
        metadata = {"format": "pt", "ss_network_module": "lycoris.kohya"}
        tensors = kohya.tensors(module, config, name, prefix)
    else:
        prefix = prefix or (usual[0] if usual else "")
        if not isinstance(config, LoRA):
            raise AdapterError(
                f"an adapter of the kind {config.kind!r}: diffusers' format has LoRA only; use format='peft'"
            )
        fields, state = peft_write.to_peft(adapters, name, peft_write.parts_of(module, name))
        tensors, fields = diffusers.tensors(fields, state, prefix)
        metadata = {"format": "pt", diffusers.METADATA: json.dumps(fields, indent=2, sort_keys=True)}
    if not tensors:
        raise AdapterError(f"adapter {name!r} changes no weight, there is nothing to write")
    atomic.save_tensors(folder / _file(format, name), dict(sorted(tensors.items())), metadata)


def _file(format: str, name: str) -> str:
    return DIFFUSERS_TENSORS if format == "diffusers" else f"{name}.safetensors"
