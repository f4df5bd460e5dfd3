"""The small models of `roundtrips.py`, with random weights and the layers to adapt."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

Inputs = tuple[Tensor, ...]


class SmallModel(NamedTuple):
    """A model to adapt.

    Attributes:
        build: returns the module.
        inputs: returns inputs of its forward pass.
        targets: kind of layer → LoRA's targets; "product" are those of LoHa and LoKr.
        saved: PEFT's `modules_to_save`.
    """

    build: Callable[[], nn.Module]
    inputs: Callable[[], Inputs]
    targets: dict[str, list[str]]
    saved: list[str]


def randomised(module: nn.Module) -> nn.Module:
    """Return the module with random weights, norms and biases, no two alike, in evaluation mode."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.1 * torch.randn_like(parameter) + 0.3 * (parameter.dim() < 2))
    return module.eval()


def gpt2() -> nn.Module:
    """Return a GPT-2 of one layer."""
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 16, "vocab_size": 40}
    return randomised(GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)))


def bert() -> nn.Module:
    """Return a BERT of one layer."""
    from transformers import BertConfig, BertForMaskedLM

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    return randomised(BertForMaskedLM(BertConfig(**sizes, vocab_size=40, max_position_embeddings=16)))


def vit() -> nn.Module:
    """Return timm's ViT of one layer."""
    import timm

    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_classes": 5}
    return randomised(timm.create_model("vit_tiny_patch16_224", **sizes))


def unet() -> nn.Module:
    """Return diffusers' UNet2DModel of two blocks."""
    from diffusers import UNet2DModel

    sizes = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "layers_per_block": 1, "norm_num_groups": 4}
    blocks = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    return randomised(UNet2DModel(**sizes, **blocks, block_out_channels=(8, 16), attention_head_dim=8))


def vae() -> nn.Module:
    """Return diffusers' AutoencoderKL of two blocks."""
    from diffusers import AutoencoderKL

    sizes = {"in_channels": 1, "out_channels": 1, "latent_channels": 2, "norm_num_groups": 4, "sample_size": 8}
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return randomised(AutoencoderKL(**sizes, **blocks, block_out_channels=(8, 16)))


class Encoder(nn.Module):
    """Two of torch's own transformer layers: their attentions are `nn.MultiheadAttention`."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs of `x`."""
        return self.head(self.layers(x))


class Experts(nn.Module):
    """Parameters of two and three dimensions, and a layer inside."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(3, 12, 8))  # (experts, out, in)
        self.down = nn.Parameter(torch.randn(8, 12))
        self.mix = nn.Parameter(torch.randn(1, 8, 8))
        self.gate = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs of `x`."""
        x = x @ self.mix[0].T
        each = torch.einsum("ni,eoi->neo", x, self.up).tanh()
        return torch.einsum("ne,neo->no", self.gate(x).softmax(-1), each) @ self.down.T


class Mixture(nn.Module):
    """A model around `Experts`."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.experts = Experts()
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs of `x`."""
        return self.head(self.experts(self.first(x)))


class Signal(nn.Module):
    """Convolutions of one and three dimensions after an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.conv1d = nn.Conv1d(8, 6, 3, padding=1, stride=2)
        self.conv3d = nn.Conv3d(1, 4, (1, 3, 2), padding=(0, 1, 0))
        self.norm = nn.BatchNorm1d(20)
        self.fc = nn.Linear(20, 5)

    def forward(self, ids: Tensor) -> Tensor:
        """Return outputs `[n, 5]` of token ids `[n, 12]`."""
        x = self.conv1d(self.embed(ids).transpose(1, 2))  # (n, 6, 6)
        x = self.conv3d(x[:, None, None]).mean((2, 3))  # (n, 4, 5)
        return self.fc(self.norm(x.flatten(1)))


def tokens() -> Inputs:
    """Return token ids `[2, 12]`."""
    return (torch.randint(0, 40, (2, 12)),)


MODELS = {
    "GPT-2": SmallModel(
        gpt2,
        tokens,
        {"Conv1D": ["c_attn", "c_fc"], "Embedding": ["wpe"], "tied Embedding": ["wte", "lm_head"], "IA3": ["c_attn"]},
        ["ln_f"],
    ),
    "BERT": SmallModel(
        bert,
        tokens,
        {
            "Linear": ["query", "value", "intermediate.dense"],
            "Embedding": ["position_embeddings", "token_type_embeddings"],
            "product": ["query", "intermediate.dense"],
            "IA3": ["query", "output.dense"],
        },
        ["transform"],
    ),
    "ViT (timm)": SmallModel(
        vit,
        lambda: (torch.randn(2, 3, 16, 16),),
        {
            "Linear": ["qkv", "fc1"],
            "Conv2d": ["patch_embed.proj"],
            "product": ["qkv", "patch_embed.proj"],
            "IA3": ["fc1"],
        },
        ["head", "norm1"],
    ),
    "UNet2DModel": SmallModel(
        unet,
        lambda: (torch.randn(2, 1, 8, 8), torch.tensor([3, 700])),
        {
            "Linear": ["to_q", "to_out.0", "linear_1"],
            "Conv2d": ["conv1", "conv_in", "downsamplers.0.conv"],
            "product": ["to_v", "conv2"],
            "IA3": ["to_v", "conv2"],
        },
        ["conv_norm_out", "conv_out"],
    ),
    "AutoencoderKL": SmallModel(
        vae,
        lambda: (torch.randn(2, 1, 8, 8),),
        {"Linear": ["to_q", "to_v"], "Conv2d": ["conv1", "quant_conv"], "product": ["to_k", "conv2"], "IA3": ["conv2"]},
        ["decoder.conv_norm_out"],
    ),
    "nn.TransformerEncoder": SmallModel(
        Encoder, lambda: (torch.randn(2, 5, 16),), {"MHA": ["self_attn", "linear1"], "product": ["linear2"]}, ["head"]
    ),
    "raw parameters": SmallModel(Mixture, lambda: (torch.randn(3, 6),), {"Linear": ["first", "gate"]}, ["head"]),
    "signal": SmallModel(
        Signal, lambda: (torch.randint(0, 11, (3, 12)),), {"Conv1d, Conv3d": ["embed", "conv1d", "conv3d"]}, ["norm"]
    ),
}
