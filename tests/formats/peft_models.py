"""Models that PEFT adapts, adapters that PEFT writes for them, and PEFT's own reading of an adapter."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

peft = pytest.importorskip("peft")


def randomised(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.1 * torch.randn_like(parameter) + 0.3 * (parameter.dim() < 2))
    return module.eval()


def gpt2(**more: Any) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 16, "vocab_size": 50, "bos_token_id": 0}
    return randomised(GPT2LMHeadModel(GPT2Config(**sizes, eos_token_id=0, **more)))


def bert() -> nn.Module:
    from transformers import BertConfig, BertForMaskedLM

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    return randomised(BertForMaskedLM(BertConfig(**sizes, vocab_size=50, max_position_embeddings=16)))


def unet() -> nn.Module:
    from diffusers import UNet2DModel

    return randomised(
        UNet2DModel(
            sample_size=8,
            in_channels=1,
            out_channels=1,
            layers_per_block=1,
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=8,
            norm_num_groups=4,
        )
    )


def vit() -> nn.Module:
    import timm

    return randomised(timm.create_model("vit_tiny_patch16_224", img_size=32, embed_dim=48, depth=2, num_classes=5))


def tokens() -> tuple[Tensor, ...]:
    return (torch.randint(0, 50, (2, 12)),)


def images() -> tuple[Tensor, ...]:
    return torch.randn(2, 1, 8, 8), torch.tensor([3, 700])


def pictures() -> tuple[Tensor, ...]:
    return (torch.randn(2, 3, 32, 32),)


BEDS = {"gpt2": (gpt2, tokens), "bert": (bert, tokens), "unet": (unet, images), "vit": (vit, pictures)}


@torch.no_grad()
def run(module: Any, inputs: tuple[Tensor, ...]) -> Tensor:
    output = module(*inputs)
    return output if isinstance(output, Tensor) else output[0]


def strictly(base: nn.Module, folder: Path) -> nn.Module:
    """Return `base` with the adapter injected by PEFT, which must find every key in its place."""
    config = peft.LoraConfig.from_pretrained(str(folder))
    peft.inject_adapter_in_model(config, base)
    from safetensors.torch import load_file

    result = peft.set_peft_model_state_dict(
        base,
        {k.removeprefix("base_model.model."): v for k, v in load_file(folder / "adapter_model.safetensors").items()},
    )
    assert not result.unexpected_keys
    assert not [key for key in result.missing_keys if "lora" in key]
    return base


def made_by_peft(module: nn.Module, folder: Path, **config: Any) -> nn.Module:
    """Save an adapter of PEFT for `module`, with random factors; return PEFT's model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = peft.get_peft_model(module, peft.LoraConfig(**config)).eval()
        with torch.no_grad():
            for name, parameter in made.named_parameters():
                if "lora_" in name:
                    parameter.copy_(0.3 * torch.randn_like(parameter))
        made.save_pretrained(str(folder))
    return made


class Grouped(nn.Module):
    def __init__(self, **convolution: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, padding=1, **convolution)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def keys_of(folder: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        return sorted(file.keys())
