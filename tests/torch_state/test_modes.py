"""Evaluation mode and seeds for a while."""

from __future__ import annotations

import torch
from torch import nn

from zoo.torch_state.modes import evaluating, seeded

CPU = torch.device("cpu")


def test_every_submodule_gets_its_own_mode_back() -> None:
    module = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout()))
    module.train()
    module[1].eval()  # frozen inside a module that trains
    before = [layer.training for layer in module.modules()]
    with evaluating(module):
        assert not any(layer.training for layer in module.modules())
    assert [layer.training for layer in module.modules()] == before


def test_a_seed_counts_inside_alone() -> None:
    state = torch.get_rng_state()
    with seeded(4):
        first = torch.randn(3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.randn(1)
    with seeded(4):
        assert torch.equal(torch.randn(3), first)


def test_without_a_seed_the_global_generator_draws() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)
        expected = torch.randn(2)
        torch.manual_seed(9)
        with seeded(None):
            assert torch.equal(torch.randn(2), expected)
