"""What `step.py` measures: all seven architectures, carried and of realistic sizes, and single layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

Loss = Callable[[nn.Module, Tensor], Tensor]


class Subject(NamedTuple):
    """A model to measure.

    Attributes:
        module: It.
        layers: Names of the layers that every library adapts.
        inputs: What the loss takes; floating, so that it can require grad.
        loss: From the module and the inputs to a scalar.
    """

    module: nn.Module
    layers: list[str]
    inputs: Tensor
    loss: Loss


def _layers(module: nn.Module, within: str = "") -> list[str]:
    """Return the names of the layers whose classes PEFT has a layer for."""

    def known(layer: nn.Module) -> bool:  # PyG has a class of its own that is called Linear
        return isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d) or type(layer).__name__ == "Conv1D"

    return [name for name, layer in module.named_modules() if known(layer) and within in name]


def _carried(name: str) -> nn.Module:
    import zoo

    return zoo.load(name, device="cpu", dtype=torch.float32).module


def bert(quick: bool) -> Subject:
    """Return BERT, 4 layers of 768, batch 4 × 128."""
    from transformers import BertConfig, BertModel

    size = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4} if quick else {}
    module = BertModel(BertConfig(num_hidden_layers=4, **size))
    x = torch.randn(4, 16 if quick else 128, module.config.hidden_size)
    return Subject(module, _layers(module, "encoder"), x, _hidden_loss)


def carried_bert(quick: bool) -> Subject:
    """Return the carried `bert`, batch 8 × 64."""
    module = _carried("bert")
    return Subject(module, _layers(module, "layer."), torch.randn(8, 64, module.config.hidden_size), _logits_loss)


def gpt(quick: bool) -> Subject:
    """Return GPT-2, 4 layers of 768, batch 4 × 128."""
    from transformers import GPT2Config, GPT2Model

    module = GPT2Model(GPT2Config(n_layer=4, **({"n_embd": 64, "n_head": 4} if quick else {})))
    x = torch.randn(4, 16 if quick else 128, module.config.n_embd)
    return Subject(module, _layers(module), x, _hidden_loss)


def carried_gpt(quick: bool) -> Subject:
    """Return the carried `gpt`, batch 4 × 64."""
    module = _carried("gpt")
    return Subject(module, _layers(module, "h."), torch.randn(4, 64, module.config.n_embd), _logits_loss)


def vit(quick: bool) -> Subject:
    """Return ViT-S of 6 blocks, patches of 16, batch 2 × 224²."""
    import timm

    size = {"embed_dim": 48, "depth": 2, "num_heads": 3, "img_size": 32} if quick else {"depth": 6}
    module = timm.create_model("vit_small_patch16_224", **size)
    return Subject(module, _layers(module), torch.randn(2, 3, *module.patch_embed.img_size), _square)


def carried_vit(quick: bool) -> Subject:
    """Return the carried `vit`, batch 32."""
    module = _carried("vit")
    channels = module.patch_embed.proj.in_channels
    return Subject(module, _layers(module), torch.randn(32, channels, *module.patch_embed.img_size), _square)


def unet(quick: bool) -> Subject:
    """Return UNet2DModel of 64 and 128 channels, batch 8 × 32²."""
    from diffusers import UNet2DModel

    module = UNet2DModel(
        sample_size=32,
        block_out_channels=(32, 32) if quick else (64, 128),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
    )
    side = 8 if quick else 32
    return Subject(module, _layers(module), torch.randn(8, 3, side, side), _noise_loss)


def carried_ddpm(quick: bool) -> Subject:
    """Return the carried `ddpm`, batch 8."""
    module = _carried("ddpm")
    return Subject(module, _layers(module), torch.randn(8, module.config.in_channels, 32, 32), _noise_loss)


def vae(quick: bool) -> Subject:
    """Return AutoencoderKL of 64 and 128 channels, batch 2 × 64²."""
    from diffusers import AutoencoderKL

    module = AutoencoderKL(
        block_out_channels=(32, 32) if quick else (64, 128),
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        norm_num_groups=8,
    )
    side = 8 if quick else 64
    return Subject(module, _layers(module), torch.randn(2, 3, side, side), _sample_loss)


def carried_vae(quick: bool) -> Subject:
    """Return the carried `vae`, batch 8."""
    module = _carried("vae")
    return Subject(module, _layers(module), torch.randn(8, module.config.in_channels, 32, 32), _sample_loss)


def stylegan(quick: bool) -> Subject:
    """Return StyleGAN2's generator at 64², up to 128 channels, batch 4; its layers are of no library's classes."""
    from zoo_stylegan.networks import StyleGAN2

    module = StyleGAN2(
        {
            "img_resolution": 8 if quick else 64,
            "channel_base": 256 if quick else 4096,
            "channel_max": 16 if quick else 128,
            "z_dim": 128,
            "w_dim": 128,
            "mapping_layers": 2,
        }
    )
    return Subject(module.generator, [], torch.randn(4, 128), _square)


def carried_stylegan(quick: bool) -> Subject:
    """Return the carried `stylegan`'s generator, batch 8."""
    module: Any = _carried("stylegan")
    labels = torch.arange(8) % module.config["c_dim"]
    return Subject(module.generator, [], torch.randn(8, module.config["z_dim"]), lambda one, z: _square(one, z, labels))


def gat(quick: bool) -> Subject:
    """Return GAT of two layers, 256 wide, on a graph of 5,000 nodes and 50,000 edges."""
    from torch_geometric.nn import GAT

    nodes = 50 if quick else 5000
    edges = torch.randint(nodes, (2, 10 * nodes))
    module = GAT(64, 256, 2, 16, heads=4)
    return Subject(module, _layers(module), torch.randn(nodes, 64), lambda one, x: _square(one, x, edges))


def carried_gat(quick: bool) -> Subject:
    """Return the carried `gat`, 1,000 nodes and 10,000 edges."""
    module: Any = _carried("gat")
    edges = torch.randint(1000, (2, 10_000))
    x = torch.randn(1000, module.in_channels)
    return Subject(module, _layers(module), x, lambda one, x: _square(one, x, edges))


def rows(count: int) -> Callable[[bool], Subject]:
    """Return the subject of six Linear(768) on so many rows."""

    def layers(quick: bool) -> Subject:
        width = 64 if quick else 768
        module = nn.Sequential(*(nn.Linear(width, width) for _ in range(6)))
        return Subject(module, _layers(module), torch.randn(count, width), _square)

    layers.__doc__ = f"Return six Linear(768), {count:,} rows."
    return layers


def convolutions(channels: int, side: int) -> Callable[[bool], Subject]:
    """Return the subject of three 3×3 convolutions."""

    def layers(quick: bool) -> Subject:
        size = 8 if quick else channels
        module = nn.Sequential(*(nn.Conv2d(size, size, 3, padding=1) for _ in range(3)))
        return Subject(module, _layers(module), torch.randn(4, size, side, side), _square)

    layers.__doc__ = f"Return three 3×3 convolutions, {channels} channels, batch 4 × {side}²."
    return layers


def _square(module: nn.Module, x: Tensor, *others: Any) -> Tensor:
    return module(x, *others).square().mean()


def _hidden_loss(module: nn.Module, x: Tensor) -> Tensor:
    return module(inputs_embeds=x).last_hidden_state.square().mean()


def _logits_loss(module: nn.Module, x: Tensor) -> Tensor:
    return module(inputs_embeds=x).logits.square().mean()


def _noise_loss(module: nn.Module, x: Tensor) -> Tensor:
    labels = {}
    if getattr(module, "class_embedding", None) is not None:
        labels = {"class_labels": torch.zeros(len(x), dtype=torch.long)}
    return module(x, torch.arange(len(x)), **labels).sample.square().mean()


def _sample_loss(module: nn.Module, x: Tensor) -> Tensor:
    return module(x).sample.square().mean()


SUBJECTS: dict[str, Callable[[bool], Subject]] = {
    "bert": bert,
    "gpt": gpt,
    "vit": vit,
    "unet": unet,
    "vae": vae,
    "stylegan": stylegan,
    "gat": gat,
    "carried-bert": carried_bert,
    "carried-gpt": carried_gpt,
    "carried-vit": carried_vit,
    "carried-ddpm": carried_ddpm,
    "carried-vae": carried_vae,
    "carried-stylegan": carried_stylegan,
    "carried-gat": carried_gat,
    "conv-64": convolutions(64, 32),
    "conv-128": convolutions(128, 16),
    "rows-1": rows(1),
    "rows-16": rows(16),
    "rows-2048": rows(2048),
}
