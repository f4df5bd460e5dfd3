"""Which weights `targets` matches, and how a weight is seen as a matrix."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import zoo
from zoo.errors import AdapterError
from zoo.methods.targets import match_weights, matches, path_of
from zoo.weights.layout import Layout
from zoo.weights.walk import tied_groups


class Odd(nn.Module):
    """Weights of many kinds; `head` shares that of `embed`."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(4, 12), "proj": nn.Linear(4, 4, bias=False)})
        self.norm = nn.LayerNorm(4)
        self.raw = nn.Parameter(torch.randn(1, 3, 4))
        self.gain = nn.Parameter(torch.randn(4))
        self.steps = nn.Parameter(torch.arange(6).view(2, 3), requires_grad=False)
        self.up = nn.ConvTranspose2d(4, 6, 3)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight


def reached(targets: Any) -> list[str]:
    return [path_of(group.refs[0]) for group in match_weights(tied_groups(Odd()), zoo.LoRA(targets=targets).targets)]


@pytest.mark.parametrize(
    ("targets", "paths"),
    [
        ("all", ["raw", "embed", "attn.qkv", "attn.proj", "up"]),
        (["qkv"], ["attn.qkv"]),
        (["attn.qkv", "up"], ["attn.qkv", "up"]),
        (["head"], ["embed"]),
        (["embed", "head"], ["embed"]),
        (["raw"], ["raw"]),
        (r"attn\..*", ["attn.qkv", "attn.proj"]),
        ("qkv|up", ["up"]),
    ],
)
def test_targets(targets: Any, paths: list[str]) -> None:
    assert sorted(reached(targets)) == sorted(paths)


@pytest.mark.parametrize(
    ("targets", "match"),
    [
        (["qvk"], r"target 'qvk' matches no weight\. Did you mean 'qkv'\?"),
        (["qkv", "attn.prj"], r"target 'attn\.prj' matches no weight\. Did you mean 'attn\.proj'\?"),
        (["norm"], "names only weights of one dimension"),
        (["gain"], "names only weights of one dimension"),
        (["steps"], "matches no weight|names only"),
        (["kv"], r"matches no weight.*Weights end in: .*qkv"),
        (r"layers\..*", "matches no weight"),
        ("qkv", "matches no weight"),
    ],
)
def test_targets_that_reach_nothing_say_what_there_is(targets: Any, match: str) -> None:
    with pytest.raises(AdapterError, match=match) as caught:
        reached(targets)
    assert "\n" not in str(caught.value)


def test_a_suffix_begins_at_a_dot() -> None:
    assert matches("attn.qkv", ("qkv",))
    assert matches("attn.qkv", ("attn.qkv",))
    assert not matches("attn.qkv", ("kv",))
    assert not matches("attn.qkv", ("attn",))
    assert not matches("attn.qkv", None)
    assert matches("attn.qkv", "all")
    assert not matches("attn.qkv", "attn")


def test_layouts() -> None:
    module = Odd()
    module.conv = nn.Conv2d(3, 4, 3)
    layouts = {path_of(group.refs[0]): group.lazy().layout for group in tied_groups(module)}
    assert layouts["embed"] == Layout(transposed=True, zero_first=True)
    assert layouts["attn.qkv"] == layouts["conv"] == Layout()
    assert layouts["up"] == Layout(transposed=True)
    assert layouts["raw"] == Layout(split=2)  # (1, 3, 4) as a matrix (3, 4)


def test_a_tied_weight_is_adapted_once_and_seen_at_both_places() -> None:
    model = zoo.wrap(Odd(), lora=zoo.LoRA(rank=2, targets=["head"]))
    assert [(info.name, info.adapters) for info in model.weights() if info.adapters] == [("embed.weight", ("default",))]
    with torch.no_grad():
        for _, parameter in model.trainable_parameters():
            parameter.add_(1)
    module = model.module
    assert torch.equal(module.embed(torch.arange(7)), module.head(torch.eye(4)).T)
