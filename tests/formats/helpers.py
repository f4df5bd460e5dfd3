"""Small modules of diffusers, transformers and LyCORIS, and what LyCORIS computed for its files."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

DATA = Path(__file__).parent / "data"
FILE = "pytorch_lora_weights.safetensors"


@torch.no_grad()
def run(model: Any, *inputs: Any, **named: Any) -> Tensor:
    output = model(*inputs, **named)
    return output if isinstance(output, Tensor) else output[0]


def close(one: Tensor, other: Tensor, tolerance: float = 1e-5) -> bool:
    """Check that two outputs are equal within `tolerance`, relative to the larger one."""
    return bool((one - other).abs().max() <= tolerance * max(1.0, float(other.abs().max())))


def maker() -> Any:
    spec = importlib.util.spec_from_file_location("zoo_make_lycoris", DATA / "make_lycoris.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKER = maker()
EXPECTED = load_file(DATA / "lycoris_expected.safetensors")


def small(name: str = "") -> nn.Module:
    module = MAKER.Small(conv1d=name not in MAKER.WITHOUT_CONV1D)
    state = {key.removeprefix("base."): value for key, value in EXPECTED.items() if key.startswith("base.")}
    module.load_state_dict(state, strict=False)
    return module.eval()


def vae() -> nn.Module:
    from diffusers import AutoencoderKL

    sizes = {"in_channels": 1, "out_channels": 1, "latent_channels": 2, "norm_num_groups": 4, "sample_size": 8}
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return AutoencoderKL(**sizes, **blocks, block_out_channels=(8, 16)).eval()


def conditional() -> nn.Module:
    from diffusers import UNet2DConditionModel

    sizes = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "layers_per_block": 1, "norm_num_groups": 4}
    blocks = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",)}
    more = {"block_out_channels": (8,), "cross_attention_dim": 8, "attention_head_dim": 4}
    return UNet2DConditionModel(**sizes, **blocks, **more).eval()


def noisy() -> tuple[Any, ...]:
    return torch.randn(2, 1, 8, 8), torch.tensor([3, 700]), torch.randn(2, 4, 8)


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 16, "vocab_size": 40}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)).eval()
