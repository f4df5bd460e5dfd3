"""Footprints against numbers computed by hand, and those of real configurations."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

import zoo


class Toy(nn.Module):
    """Linear (128 × 64, bias 128) and an embedding (32 × 64) that a head shares."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(32, 64)
        self.fc = nn.Linear(64, 128)
        self.head = nn.Linear(64, 32, bias=False)
        self.head.weight = self.embed.weight


PARAMETERS = 128 * 64 + 128 + 32 * 64


def four_bit(values: int, double: bool = True) -> int:
    """Return the bytes of nf4 in blocks of 64: half a byte per value and a float32 scale per block.

    With double quantization: an 8-bit scale per block, a float32 per 256 of these, and one float32 offset.
    """
    blocks = values // 64
    return values // 2 + (blocks + 4 * -(-blocks // 256) + 4 if double else 4 * blocks)


@pytest.mark.parametrize(
    ("bits", "stored"),
    [
        (None, 4 * PARAMETERS),
        (32, 4 * PARAMETERS),
        (16, 2 * (128 * 64 + 32 * 64) + 4 * 128),
        (8, (128 * 64 + 4 * 128) + (32 * 64 + 4 * 32) + 4 * 128),
        (4, four_bit(128 * 64) + four_bit(32 * 64) + 4 * 128),
        (zoo.Quantization(4, double=False), four_bit(128 * 64, False) + four_bit(32 * 64, False) + 4 * 128),
    ],
)
def test_bytes_by_hand(bits: Any, stored: int) -> None:
    figures = zoo.wrap(Toy(), bits=bits).footprint()
    assert figures.parameters == PARAMETERS
    assert figures.bytes_16bit == 2 * PARAMETERS
    assert figures.bytes == stored
    assert figures.quantized_share == (0 if bits in (None, 16, 32) else (PARAMETERS - 128) / PARAMETERS)
    assert figures.adapter_bytes == 0
    assert figures.adapted_share == 0
    assert figures.trainable == (PARAMETERS if bits in (None, 32) else 0)


def test_adapters_merged_copies_and_what_trains() -> None:
    model = zoo.wrap(Toy(), bits=4, lora=zoo.LoRA(rank=3, targets=["fc"]))
    figures = model.footprint()
    assert figures.trainable == 3 * (128 + 64)
    assert figures.adapter_bytes == 4 * 3 * (128 + 64)
    assert figures.adapted_share == 128 * 64 / PARAMETERS
    model.deactivate()
    assert dataclasses.replace(model.footprint(), trainable=figures.trainable) == figures
    assert model.footprint().trainable == 0
    model.merge("default")
    merged = model.footprint()
    assert merged.bytes == figures.bytes + 4 * 128 * 64  # the dense copy in addition to the quantized base
    model.unmerge()
    assert dataclasses.replace(model.footprint(), trainable=figures.trainable) == figures


def test_what_every_weight_is() -> None:
    model = zoo.wrap(Toy(), bits=4, lora={"a": zoo.LoRA(rank=2, targets=["fc"]), "b": zoo.LoRA(rank=2, targets="all")})
    infos = {info.name: info for info in model.weights()}
    assert set(infos) == {"embed.weight", "fc.weight", "fc.bias"}
    assert infos["fc.weight"].adapters == ("a", "b")
    assert infos["embed.weight"].adapters == ("b",)
    assert infos["fc.bias"] == ("fc.bias", torch.Size([128]), torch.float32, 32.0, ())
    assert infos["fc.weight"].bits == 8 * four_bit(128 * 64) / (128 * 64)
    assert infos["fc.weight"].shape == (128, 64)


def test_figures_for_json() -> None:
    import json

    figures = zoo.wrap(Toy(), bits=4).footprint()
    assert json.loads(json.dumps(figures.as_dict())) == dataclasses.asdict(figures)


@pytest.mark.parametrize(("name", "millions"), [("gpt2", 124.4), ("ddpm-cifar10", 35.7)])
def test_real_configurations_in_4_bit_with_an_adapter_on_every_weight(name: str, millions: float) -> None:
    if name not in {entry.name for entry in zoo.entries()}:
        pytest.skip(f"{name} is not in the registry")
    model = zoo.load(name, bits=4, lora=zoo.LoRA(rank=8, targets="all"), device="meta")
    figures = model.footprint()
    assert round(figures.parameters / 1e6, 1) == millions
    assert figures.quantized_share >= 0.99
    assert figures.bytes <= 0.30 * figures.bytes_16bit
    assert figures.adapted_share >= 0.985
