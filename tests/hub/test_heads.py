"""A head goes to the Hub with its adapter, and comes back with its classes."""

from __future__ import annotations

import pytest
import torch

import zoo

from .server import Hub

CLASSES = ["bad", "good"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "gpt", "vit", "ddpm", "stylegan", "gat"])
def test_a_pushed_adapter_brings_its_head_along(name: str, hub: Hub) -> None:
    model = zoo.load(name, classes=CLASSES, lora=2, bits=4, device="cpu", seed=0)
    with torch.no_grad():
        for _, parameter in model.trainable_parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    given = zoo.Samples(torch.rand(2, 1, 8, 8), "image") if name == "ddpm" else None  # drawing takes long
    model.push("me/judge", samples=given)
    card = hub.repositories["me/judge"].head().files["README.md"].decode()
    assert "bad, good" in card or "bad good" in card
    loaded = zoo.load("me/judge", bits=4, device="cpu")
    assert loaded.entry.head == model.entry.head
    wanted = model.state_dict()
    assert all(torch.equal(tensor, wanted[key]) for key, tensor in loaded.state_dict().items())
    with pytest.raises(zoo.AdapterError, match="load both together"):
        zoo.load(name, device="cpu").add_adapter("late", "me/judge")
