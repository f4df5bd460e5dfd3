"""Folders of transformers' models with 4-bit weights as bitsandbytes has them: `weight`, `weight.absmax` and so on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from zoo.storage import atomic
from zoo.storage.config_json import BITSANDBYTES, CONFIG, in_four_bit, read_json_object
from zoo.storage.model_folder import WEIGHTS
from zoo.storage.to_host import to_host
from zoo.weights.foreign.bitsandbytes import quant_state
from zoo.weights.four_bit import FourBit
from zoo.weights.quantized_tensor import QuantizedTensor
from zoo.weights.scheme import BLOCK_SIZES, Quantization
from zoo.weights.walk import TiedGroup, library_modules


def can_say(module: nn.Module, groups: list[TiedGroup], packed: Mapping[str, QuantizedTensor]) -> bool:
    """Return whether transformers could load the module with these weights: all 4-bit ones of linear layers."""
    if not packed or not _is_transformers(module):
        return False
    codecs = {one.codec for one in packed.values()}
    if len(codecs) != 1 or not isinstance(next(iter(codecs)), FourBit):
        return False
    refs = [group.refs for group in groups if group.name in packed]
    return all(len(one) == 1 and isinstance(one[0].layer, nn.Linear) and one[0].attribute == "weight" for one in refs)


def _is_transformers(module: nn.Module) -> bool:
    return any(cls.__module__.startswith("transformers.") for cls in type(module).__mro__) and hasattr(module, "config")


def write_config(module: nn.Module, folder: Path) -> bool:
    """Write a transformers model's config.json; return whether the module is one."""
    if not _is_transformers(module):
        return False
    module.config.save_pretrained(folder)  # type: ignore[union-attr, operator]
    return True


def write(
    module: nn.Module,
    folder: Path,
    groups: list[TiedGroup],
    packed: Mapping[str, QuantizedTensor],
    plain: Mapping[str, Tensor],
) -> None:
    """Write model.safetensors, and into config.json how its weights are quantized.

    Args:
        module: A transformers model.
        folder: With its config.json.
        groups: The module's parameters.
        packed: The quantized weights by name, for which `can_say` is true.
        plain: All other tensors by name.
    """
    codec = next(iter(packed.values())).codec
    assert isinstance(codec, FourBit)
    tensors = dict(plain)
    for name, one in packed.items():
        tensors[name] = one.tensors()[0].detach()
        tensors |= {f"{name}.{part}": value for part, value in quant_state(one).as_dict(packed=True).items()}
    atomic.save_tensors(folder / WEIGHTS, to_host(tensors))
    quantized = {name.removesuffix(".weight") for name in packed}
    dense = [path for path, layer in library_modules(module) if isinstance(layer, nn.Linear) and path not in quantized]
    dtype = str(next(iter(packed.values())).dtype).removeprefix("torch.")
    config = {
        **(read_json_object(folder / CONFIG) or {}),
        "architectures": [type(module).__name__],
        "dtype": dtype,
        "quantization_config": {
            "quant_method": BITSANDBYTES,
            "load_in_4bit": True,
            "load_in_8bit": False,
            "bnb_4bit_quant_type": codec.scheme,
            "bnb_4bit_use_double_quant": codec.double,
            "bnb_4bit_compute_dtype": dtype,
            "bnb_4bit_quant_storage": "uint8",
            "llm_int8_skip_modules": dense,
        },
    }
    atomic.write_json(folder / CONFIG, config)


def scheme_of(config: Mapping[str, Any]) -> Quantization | None:
    """Return the quantization of a folder that transformers wrote with bitsandbytes in 4 bit; None for any other."""
    if not in_four_bit(config):
        return None
    told = config["quantization_config"]
    kind = told.get("bnb_4bit_quant_type", "fp4")
    if kind not in ("nf4", "fp4"):
        return None
    return Quantization(4, kind, BLOCK_SIZES[0], bool(told.get("bnb_4bit_use_double_quant", False)))
