"""What trains, or has changed, outside every adapter is named when an adapter is saved, and not left out in silence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import zoo
from zoo.errors import AdapterError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 8)
        self.body = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8))
        self.head = nn.Linear(8, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.embed(ids)))


def new_head(net: Net) -> None:
    net.head = nn.Linear(8, 5)


def frozen_head(net: Net) -> None:
    net.head = nn.Linear(8, 5).requires_grad_(False)


def more_rows(net: Net) -> None:
    """As transformers' `resize_token_embeddings` does."""
    net.embed.weight.data = torch.cat([net.embed.weight.data, torch.randn(3, 8)])


def new_module(net: Net) -> None:
    net.extra = nn.Linear(2, 2)


def thawed(net: Net) -> None:
    net.body[1].weight.requires_grad_(True)


def moved(net: Net) -> None:
    with torch.no_grad():
        net.head.bias.add_(1)


def no_head(net: Net) -> None:
    net.head = nn.Identity()


CHANGES: dict[str, tuple[Callable[[Net], None], str]] = {
    "a new head": (
        new_head,
        r"head\.weight, head\.bias: expected every weight that trains.*modules_to_save=\['head'\]",
    ),
    "a new head, frozen": (frozen_head, r"head\.weight: .*got shape \(5, 8\), it was \(3, 8\).*modules_to_save"),
    "more rows": (more_rows, r"embed\.weight: .*got shape \(15, 8\), it was \(12, 8\).*trainable_token_indices"),
    "a new module": (new_module, r"extra\.weight, extra\.bias: expected every weight that trains"),
    "a part of the base thawed": (thawed, r"body\.1\.weight: expected every weight that trains"),
    "a part of the base moved": (moved, r"head\.bias: .*got other values"),
    "a part of the base gone": (no_head, r"head\.weight, head\.bias: .*got a module without it"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_it_is_named(change: str, tmp_path: Path) -> None:
    alter, match = CHANGES[change]
    model = zoo.wrap(Net(), lora={"a": zoo.LoRA(rank=2, targets=["body.0"]), "b": zoo.LoRA(rank=2, targets=["body.0"])})
    model.save_adapter(tmp_path / "before")
    alter(model.module)  # type: ignore[arg-type]
    for name in ("a", None):
        with pytest.raises(AdapterError, match=match):
            model.save_adapter(tmp_path / "after", name)
    assert not list((tmp_path / "after").glob("**/*.safetensors"))


@pytest.mark.parametrize("alter", [thawed, new_head])
def test_training_stops_before_it_is_in_vain(alter: Callable[[Net], None]) -> None:
    model = zoo.wrap(Net(), lora=zoo.LoRA(rank=2, targets=["body.0"]))
    alter(model.module)  # type: ignore[arg-type]
    with pytest.raises(AdapterError, match="expected every weight that trains to be in an adapter"):
        model.tune(steps=1)


def test_an_adapter_that_comes_after_the_change_has_it(tmp_path: Path) -> None:
    model = zoo.wrap(Net(), lora=zoo.LoRA(rank=2, targets=["body.0"]))
    new_head(model.module)  # type: ignore[arg-type]
    model.add_adapter("after", zoo.LoRA(rank=2, targets=["body.0"], modules_to_save=["head"]))
    folder = model.save_adapter(tmp_path, "after")
    model.activate("after")
    ids = torch.arange(12)
    expected = model(ids)
    model.deactivate()
    base = Net()
    base.load_state_dict(
        {name: value for name, value in model.state_dict().items() if "head" not in name}, strict=False
    )
    new_head(base)
    assert torch.equal(zoo.wrap(base, lora=folder)(ids), expected)


def test_what_trains_beside_and_is_no_part_of_the_adapter(tmp_path: Path) -> None:
    """As a discriminator does."""
    model = zoo.wrap(Net(), lora=zoo.LoRA(rank=2, targets=["body.0"]))
    model.module.probe = nn.Sequential(nn.Linear(8, 1), nn.BatchNorm1d(1))  # type: ignore[assignment]
    with pytest.raises(AdapterError, match=r"probe\.0\.weight, .*model\.train_beside"):
        model.save_adapter(tmp_path)
    with pytest.raises(AdapterError, match="expected paths of modules, got 'probe', 'other'"):
        model.train_beside("probe", "other")
    model.train_beside("probe")
    model.train()
    model.module.probe(torch.randn(4, 8))
    model.add_adapter("second", zoo.LoRA(rank=2, targets=["body.0"]))
    model.module.probe(torch.randn(4, 8))
    model.save_adapter(tmp_path)
    statistics = model.module.probe[1].running_mean.clone()
    model.deactivate()
    assert torch.equal(model.module.probe[1].running_mean, statistics)
    base = Net()
    base.load_state_dict({k: v for k, v in model.state_dict().items() if "probe" not in k})
    assert zoo.wrap(base, lora={"a": tmp_path, "b": tmp_path / "second"}).active == ("a", "b")


def test_what_a_quantized_model_has_in_full_precision(tmp_path: Path) -> None:
    model = zoo.wrap(Net(), bits=4, lora=2)
    model.save_adapter(tmp_path / "before")
    moved(model.module)  # type: ignore[arg-type]
    with pytest.raises(AdapterError, match=r"head\.bias: .*got other values"):
        model.save_adapter(tmp_path / "after")


def test_a_cast_and_a_merge_are_no_change(tmp_path: Path) -> None:
    model = zoo.wrap(Net(), lora=zoo.LoRA(rank=2, targets=["body.0"], modules_to_save=["head"], bias="all"))
    model.merge()
    model.module.bfloat16()
    model.save_adapter(tmp_path)
    model.unmerge()
    model.module.float()
    model.save_adapter(tmp_path)


def test_a_head_of_timm_that_comes_after_its_adapter(tmp_path: Path) -> None:
    model = zoo.load("vit", lora=4, seed=0, device="cpu")
    model.module.reset_classifier(5)
    with pytest.raises(AdapterError, match=r"head\.weight, head\.bias: .*modules_to_save=\['head'\]"):
        model.save_adapter(tmp_path)
    with pytest.raises(AdapterError, match=r"head\.weight, head\.bias"):
        model.push("someone/something")
