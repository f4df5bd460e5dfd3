"""Whole architectures, built from configurations: after one step every adapted weight's factors receive a gradient.

First with B at zero, as in a new adapter (B gets a gradient, A none), then after B has moved (both get one).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.weights.walk import managed_weights, tied_groups

BITS = [None, 8, 4]


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(vocab_size=97, n_positions=16, n_embd=48, n_layer=2, n_head=4))


def bert() -> nn.Module:
    from transformers import BertConfig, BertForMaskedLM

    sizes = {"vocab_size": 97, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    return BertForMaskedLM(BertConfig(**sizes, intermediate_size=64, max_position_embeddings=16))


def vit() -> nn.Module:
    import timm

    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 48, "num_heads": 4, "num_classes": 5}
    return timm.create_model("vit_tiny_patch16_224", **sizes)


def unet() -> nn.Module:
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(16, 32),
        norm_num_groups=4,
        num_class_embeds=5,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )


def autoencoder() -> nn.Module:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        sample_size=16,
    )


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def lstm() -> nn.Module:
    return nn.LSTM(24, 32, 2, batch_first=True)


class Case(NamedTuple):
    make: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Any, ...]]
    share: float  # at least this share of the parameters is stored in 4 bit, even at this size


def words() -> tuple[Tensor]:
    return (torch.cat([torch.randint(97, (4, 16)), torch.arange(96).view(6, 16)]),)


CASES: dict[str, Case] = {
    "GPT-2": Case(gpt2, words, 0.97),
    "BERT": Case(bert, words, 0.95),
    "ViT": Case(vit, lambda: (torch.randn(3, 3, 16, 16),), 0.97),
    "UNet2DModel": Case(unet, lambda: (torch.randn(5, 3, 8, 8), torch.randint(1000, (5,)), torch.arange(5)), 0.97),
    "AutoencoderKL": Case(autoencoder, lambda: (torch.randn(2, 3, 16, 16), True), 0.97),
    "TransformerEncoder": Case(encoder, lambda: (torch.randn(3, 7, 32),), 0.95),
    "LSTM": Case(lstm, lambda: (torch.randn(3, 7, 24),), 0.95),
}


def call(name: str, module: nn.Module) -> Tensor:
    inputs = CASES[name].inputs()
    if name == "UNet2DModel":
        out = module(inputs[0], inputs[1], class_labels=inputs[2])
    elif name == "AutoencoderKL":
        out = module(inputs[0], sample_posterior=inputs[1])
    else:
        out = module(*inputs)
    return out if isinstance(out, Tensor) else out[0]


def step(name: str, model: zoo.Model) -> dict[str, Tensor]:
    """Take one step of plain gradient descent, and return the gradients before it."""
    model.module.zero_grad()
    out = call(name, model.module)
    (out * torch.randn_like(out)).sum().backward()
    grads = {}
    with torch.no_grad():
        for key, factor in model.trainable_parameters():
            assert factor.grad is not None, key
            grads[key] = factor.grad.clone()
            factor -= 0.01 * factor.grad / factor.grad.norm().clamp(min=1e-12)
    return grads


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", CASES)
def test_every_adapted_weight_learns(
    name: str, bits: int | None, record_property: Callable[[str, object], None]
) -> None:
    module = CASES[name].make().train()
    adaptable = [group.value for group in tied_groups(module) if group.value.ndim >= 2]
    places = sum(len(group.refs) for group in tied_groups(module) if group.value.ndim >= 2)
    model = zoo.wrap(module, bits=bits, lora=zoo.LoRA(rank=2, targets="all"))
    held = managed_weights(module)
    assert len(held) == len(adaptable)
    first = step(name, model)
    for key, store in held.items():
        (update,) = store.updates.values()
        zero, other = ("A", "B") if store.layout.zero_first else ("B", "A")
        prefix = f"{key}_store.updates.default."
        assert first[prefix + zero].norm() > 0, f"{prefix}{zero} gets no gradient"
        assert first[prefix + other].norm() == 0, f"{prefix}{other}: its partner is zero"
        assert getattr(update, zero).norm() > 0
    second = step(name, model)
    assert all(grad.norm() > 0 and grad.isfinite().all() for grad in second.values())

    footprint = model.footprint()
    assert footprint.adapted_share > 0.9
    if bits in (8, 4):
        assert footprint.quantized_share >= CASES[name].share
    figures = f"{places} places, {len(held)} managed weights, quantized {footprint.quantized_share:.4f}"
    record_property("figures", figures)
    print(f"{name} {bits or 32} bit: {figures}, adapted {footprint.adapted_share:.4f}")


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_transformer_encoder_shows_the_adapter_in_both_modes(mode: str, nested: bool, bits: int | None) -> None:
    """In evaluation mode torch's fast path reads the weights themselves; it must not skip the adapter."""
    plain = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True), 2, enable_nested_tensor=nested
    )
    plain.train(mode == "train")
    model = zoo.wrap(copy.deepcopy(plain), bits=bits, lora=zoo.LoRA(rank=2, targets="all"))
    with torch.no_grad():
        for _, factor in model.trainable_parameters():
            factor.normal_(std=0.1)
        x, padding = torch.randn(3, 7, 32), torch.arange(7) > torch.tensor([[6], [4], [2]])
        got = model.module(x, src_key_padding_mask=padding)[~padding]
        plain.load_state_dict(model.state_dict())
        expected = plain(x, src_key_padding_mask=padding)[~padding]
        model.deactivate()
        base = model.module(x, src_key_padding_mask=padding)[~padding]
    assert float((got - expected).norm() / expected.norm()) < 1e-5
    assert float((got - base).norm() / base.norm()) > 1e-2
