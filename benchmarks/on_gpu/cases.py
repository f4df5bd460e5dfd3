"""One model of each architecture, at a size that fills a card, and its variants: plain, zoo's, PEFT's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

import zoo
from on_gpu.parts import Setup

RANK = 16
Loss = Callable[[nn.Module, bool], Tensor]  # of (module, whether its input requires grad, as the frozen floor needs)


class Case(NamedTuple):
    """A module in bf16 on the device, and its loss."""

    what: str
    module: nn.Module
    loss: Loss


def gpt(setup: Setup) -> Case:
    """Return GPT-2 of 16 layers, 1280 wide."""
    from transformers import GPT2Config, GPT2LMHeadModel

    width, layers, batch, length = (64, 1, 2, 16) if setup.quick else (1280, 16, 8, 1024)
    config = GPT2Config(n_embd=width, n_layer=layers, n_head=width // 64, n_positions=max(length, 64), vocab_size=32000)
    ids = torch.randint(1000, (batch, length), device=setup.device)

    def loss(module: nn.Module, floor: bool) -> Tensor:
        embedded = module.get_input_embeddings()(ids).detach().requires_grad_(floor)  # type: ignore[operator]
        return module(inputs_embeds=embedded, labels=ids, use_cache=False).loss

    return _case(setup, f"GPT-2, {layers} × {width}, {batch} × {length}", lambda: GPT2LMHeadModel(config), loss)


def bert(setup: Setup) -> Case:
    """Return BERT-large."""
    from transformers import BertConfig, BertModel

    width, layers, batch, length = (64, 1, 2, 16) if setup.quick else (1024, 24, 32, 512)
    config = BertConfig(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=width // 64, intermediate_size=4 * width
    )
    embedded = torch.randn(batch, length, width, device=setup.device, dtype=torch.bfloat16)

    def loss(module: nn.Module, floor: bool) -> Tensor:
        inputs = embedded.detach().requires_grad_(floor)
        return module(inputs_embeds=inputs).last_hidden_state.float().square().mean()

    return _case(setup, f"BERT, {layers} × {width}, {batch} × {length}", lambda: BertModel(config), loss)


def vit(setup: Setup) -> Case:
    """Return ViT-large, 224 × 224."""
    import timm

    name, batch = ("vit_tiny_patch16_224", 1) if setup.quick else ("vit_large_patch16_224", 64)
    images = torch.randn(batch, 3, 224, 224, device=setup.device, dtype=torch.bfloat16)
    return _case(setup, f"{name}, {batch}", lambda: timm.create_model(name, pretrained=False), _of_input(images))


def ddpm(setup: Setup) -> Case:
    """Return a U-Net of 128 to 512 channels at 64 × 64."""
    from diffusers import UNet2DModel

    channels, size, batch = ((32, 32), 8, 2) if setup.quick else ((128, 256, 512), 64, 32)
    n = len(channels)
    noisy = torch.randn(batch, 3, size, size, device=setup.device, dtype=torch.bfloat16)
    times = torch.arange(batch, device=setup.device)

    def loss(module: nn.Module, floor: bool) -> Tensor:
        return module(noisy.detach().requires_grad_(floor), times).sample.float().square().mean()

    def make() -> nn.Module:
        return UNet2DModel(
            sample_size=size, block_out_channels=channels, down_block_types=("DownBlock2D",) * n,
            up_block_types=("UpBlock2D",) * n, norm_num_groups=8,
        )  # fmt: skip

    return _case(setup, f"UNet2DModel, {channels}, {batch} × {size}²", make, loss)


def vae(setup: Setup) -> Case:
    """Return an autoencoder as Stable Diffusion's, at 256 × 256."""
    from diffusers import AutoencoderKL

    channels, size, batch = ((32, 32), 8, 2) if setup.quick else ((128, 256, 512, 512), 256, 8)
    n = len(channels)
    images = torch.randn(batch, 3, size, size, device=setup.device, dtype=torch.bfloat16)

    def make() -> nn.Module:
        return AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * n, up_block_types=("UpDecoderBlock2D",) * n,
            block_out_channels=channels, layers_per_block=1 if setup.quick else 2, norm_num_groups=8,
        )  # fmt: skip

    def loss(module: nn.Module, floor: bool) -> Tensor:
        return module(images.detach().requires_grad_(floor)).sample.float().square().mean()

    return _case(setup, f"AutoencoderKL, {channels}, {batch} × {size}²", make, loss)


def gat(setup: Setup) -> Case:
    """Return a graph attention network of 3 layers, 8 heads of 128."""
    from torch_geometric.nn import GAT

    nodes, edges, width = (50, 100, 16) if setup.quick else (50_000, 800_000, 1024)
    x = torch.randn(nodes, width, device=setup.device, dtype=torch.bfloat16)
    edge_index = torch.randint(nodes, (2, edges), device=setup.device)

    def loss(module: nn.Module, floor: bool) -> Tensor:
        return module(x.detach().requires_grad_(floor), edge_index).float().square().mean()

    what = f"GAT, 3 × {width}, {nodes} nodes, {edges} edges"
    return _case(setup, what, lambda: GAT(width, width, 3, heads=8, add_self_loops=False), loss)


def stylegan(setup: Setup) -> Case:
    """Return the generator that the plugin carries, of 32 × 32: at a large batch."""
    batch = 2 if setup.quick else 1024
    module = zoo.load("stylegan", device=setup.device, dtype=torch.bfloat16).module.generator
    z = torch.randn(batch, 64, device=setup.device, dtype=torch.bfloat16)
    labels = torch.zeros(batch, dtype=torch.long, device=setup.device)

    def loss(module: nn.Module, floor: bool) -> Tensor:
        return module(z.detach().requires_grad_(floor), labels).float().square().mean()

    return Case(f"StyleGAN2's generator, {batch} × 32²", module.requires_grad_(False), loss)


CASES = {"gpt": gpt, "bert": bert, "vit": vit, "ddpm": ddpm, "vae": vae, "stylegan": stylegan, "gat": gat}


def _case(setup: Setup, what: str, make: Callable[[], nn.Module], loss: Loss) -> Case:
    torch.manual_seed(0)
    with torch.device(setup.device):
        module = make()
    return Case(what, module.to(torch.bfloat16).requires_grad_(False), loss)


def _of_input(values: Tensor) -> Loss:
    return lambda module, floor: module(values.detach().requires_grad_(floor)).float().square().mean()


def variants(case: Case) -> dict[str, Callable[[], nn.Module]]:
    """Return what makes each variant of a case's module; B of LoRA is not zero, unlike a new adapter's."""
    lora = zoo.LoRA(rank=RANK, targets="all")

    def ours(bits: int | None) -> nn.Module:
        model = zoo.wrap(copy.deepcopy(case.module), bits=bits, lora=lora)
        for _, parameter in model.trainable_parameters():
            nn.init.normal_(parameter, std=0.01)
        return model.module.train()

    return {
        "zoo LoRA": lambda: ours(None),
        "zoo 8-bit LoRA": lambda: ours(8),
        "zoo 4-bit LoRA": lambda: ours(4),
        "PEFT LoRA": lambda: peft_of(copy.deepcopy(case.module)),
        "PEFT 4-bit LoRA": lambda: peft_of(in_four_bit(copy.deepcopy(case.module))),
    }


def peft_of(module: nn.Module) -> nn.Module:
    """Return a module with PEFT's LoRA on every layer that PEFT adapts."""
    import peft
    from transformers.pytorch_utils import Conv1D

    kinds = (nn.Linear, nn.Conv2d, Conv1D)
    layers = [name for name, layer in module.named_modules() if isinstance(layer, kinds)]
    adapted = peft.inject_adapter_in_model(peft.LoraConfig(r=RANK, target_modules=layers), module)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.01)
    return adapted.train()


def in_four_bit(module: nn.Module) -> nn.Module:
    """Return a module with bitsandbytes' 4-bit layer in the place of each `nn.Linear`; the others have none."""
    import bitsandbytes as bnb

    for name, layer in list(module.named_modules()):
        if type(layer) is not nn.Linear:
            continue
        four = bnb.nn.Linear4bit(
            layer.in_features, layer.out_features, compute_dtype=torch.bfloat16, compress_statistics=True,
            quant_type="nf4",
        )  # fmt: skip
        four.weight = bnb.nn.Params4bit(
            layer.weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4"
        )
        four.bias = layer.bias
        parent, _, attribute = name.rpartition(".")
        setattr(module.get_submodule(parent), attribute, four.to(layer.weight.device))
    if not any(isinstance(layer, bnb.nn.Linear4bit) for layer in module.modules()):
        raise ValueError("bitsandbytes has a 4-bit layer for none of this model's")
    return module
