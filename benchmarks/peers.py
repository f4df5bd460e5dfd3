"""The same model adapted by other libraries: PEFT, PEFT over bitsandbytes' 4-bit layers, LyCORIS."""

from __future__ import annotations

import copy
import logging

from torch import nn

Variants = dict[str, nn.Module | str]  # name → the model in that form, or why there is none


def variants(plain: nn.Module, layers: list[str], rank: int) -> Variants:
    """Return the model adapted by each peer at the same layers, or why it is not."""
    if not layers:
        reason = "it has no layer for this model's"
        others: Variants = dict.fromkeys(("PEFT 4-bit LoRA", "LyCORIS LoRA"), reason)
        return by_parameters(plain, rank) | others
    return peft_variants(plain, layers, rank) | lycoris_variant(plain, layers, rank)


def peft_variants(plain: nn.Module, layers: list[str], rank: int) -> Variants:
    """Return the model adapted by PEFT as its `get_peft_model` does by default, in full precision and in 4 bit."""
    try:
        import peft
    except ImportError:
        return dict.fromkeys(("PEFT LoRA", "PEFT 4-bit LoRA"), "peft is not installed")
    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=layers)

    def adapted(module: nn.Module) -> nn.Module | str:
        try:
            return peft.get_peft_model(module, config).base_model.model
        except Exception as error:  # what PEFT can do depends on its version and the device
            return f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"

    models: Variants = {"PEFT LoRA": adapted(copy.deepcopy(plain))}
    kinds = {type(plain.get_submodule(name)).__name__ for name in layers}
    if not kinds <= {"Linear", "Conv1D"}:
        return models | {"PEFT 4-bit LoRA": f"bitsandbytes has no 4-bit {min(kinds - {'Linear', 'Conv1D'})}"}
    try:
        quantized = bitsandbytes_layers(copy.deepcopy(plain), layers)
    except Exception as error:
        return models | {"PEFT 4-bit LoRA": f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"}
    return models | {"PEFT 4-bit LoRA": adapted(quantized)}


def by_parameters(plain: nn.Module, rank: int) -> Variants:
    """Return the model with PEFT's LoRA of parameters by name, for those of two dimensions that it takes."""
    try:
        import peft
    except ImportError:
        return {"PEFT LoRA": "peft is not installed"}
    names = [name for name, one in plain.named_parameters() if one.dim() == 2 and min(one.shape) > 1]
    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=[], target_parameters=names)
    try:
        module = peft.get_peft_model(copy.deepcopy(plain), config).base_model.model
    except Exception as error:
        return {"PEFT LoRA": f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"}
    total = sum(one.numel() for one in plain.parameters())
    share = sum(one.numel() for name, one in plain.named_parameters() if name in names) / total
    return {f"PEFT LoRA of {share:.0%} of the values": module}


def bitsandbytes_layers(module: nn.Module, layers: list[str]) -> nn.Module:
    """Return the module with these layers in 4 bit as bitsandbytes' own; (in, out) weights of `Conv1D` transposed."""
    import bitsandbytes as bnb

    for name in layers:
        layer = module.get_submodule(name)
        if not isinstance(layer, nn.Linear) and type(layer).__name__ != "Conv1D":
            raise TypeError(f"bitsandbytes has no 4-bit layer for {type(layer).__name__}")
        weight = layer.weight.detach()
        weight = weight.t().contiguous() if type(layer).__name__ == "Conv1D" else weight
        dtype = weight.dtype
        four = bnb.nn.Linear4bit(
            weight.shape[1], weight.shape[0], compute_dtype=dtype, compress_statistics=True, quant_type="nf4"
        )
        four.weight = bnb.nn.Params4bit(weight, requires_grad=False, compress_statistics=True, quant_type="nf4")
        four.bias = layer.bias
        parent, _, attribute = name.rpartition(".")
        setattr(module.get_submodule(parent), attribute, four.to(weight.device))
    return module


def lycoris_variant(plain: nn.Module, layers: list[str], rank: int) -> Variants:
    """Return the model adapted by LyCORIS' LoRA, every Linear and convolution (its own choice goes by classes)."""
    try:
        from lycoris import LycorisNetwork, create_lycoris
    except ImportError:
        return {"LyCORIS LoRA": "lycoris-lora is not installed"}
    kinds = {type(plain.get_submodule(name)).__name__ for name in layers}
    if not kinds <= {"Linear", "Conv1d", "Conv2d"}:
        return {"LyCORIS LoRA": f"it has no layer for {min(kinds - {'Linear', 'Conv1d', 'Conv2d'})}"}
    logging.getLogger("LyCORIS").setLevel(logging.ERROR)
    module = copy.deepcopy(plain)
    LycorisNetwork.apply_preset({"enable_conv": True, "target_module": sorted(kinds), "target_name": []})
    network = create_lycoris(
        module, 1.0, linear_dim=rank, linear_alpha=rank, conv_dim=rank, conv_alpha=rank, algo="lora"
    )
    network.apply_to()
    # Where the module's `parameters()` and `zero_grad` reach the factors, and no forward calls it.
    module.get_submodule(layers[0]).add_module("lycoris", network.to(next(plain.parameters()).dtype))
    return {"LyCORIS LoRA": module}
