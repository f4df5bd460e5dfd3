"""A block that would make too much ends in an error before the memory is taken; what is made otherwise is as ever."""

from __future__ import annotations

import resource

import pytest
import torch
from torch import nn

from zoo.loading.empty import meta_parameters
from zoo.torch_state.budget import Budget, OverBudgetError, is_over_budget

BIG = 10**10
MAKERS = {
    "arange": lambda: torch.arange(BIG),
    "a step": lambda: torch.arange(0, 1, 1e-10),
    "ones": lambda: torch.tril(torch.ones(100_000, 100_000)),
    "randn": lambda: nn.Parameter(torch.randn(1, BIG, 4)),
    "outer": lambda: torch.outer(torch.zeros(100_000), torch.zeros(100_000)),
    "broadcast": lambda: torch.zeros(100_000)[:, None] - torch.zeros(100_000)[None],
    "repeat": lambda: torch.zeros(1000).repeat(BIG),
    "expand": lambda: torch.zeros(1).expand(BIG).clone(),
    "pad": lambda: nn.functional.pad(torch.zeros(4), (BIG, BIG)),
    "new": lambda: torch.zeros(1).new_zeros(BIG),
    "linspace": lambda: torch.linspace(0, 1, BIG),
    "many": lambda: [torch.zeros(500_000) for _ in range(10_000)],
    "layers": lambda: [nn.Linear(4, 4) for _ in range(10_000)],
    "a layer": lambda: nn.Embedding(BIG, 8),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_too_much_is_an_error_before_it_is_made(make) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    budget = Budget("toy", tensors=1000, elements=10**9, written=10**8)
    with pytest.raises(OverBudgetError, match="toy: its configuration makes more") as caught, meta_parameters(), budget:
        make()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # kB
    outer = ValueError("as a constructor puts it")
    outer.__cause__ = caught.value
    assert is_over_budget(outer)
    assert not is_over_budget(ValueError())


def test_what_is_made_within_it_is_as_ever() -> None:
    def make() -> tuple[nn.Module, list[float], bool]:
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(8, 2, 16)
        rates = [rate.item() for rate in torch.linspace(0, 0.5, 5)]
        return layer, rates, torch.allclose(torch.zeros(3000), torch.zeros(3000))

    plain = make()
    with Budget("toy", tensors=100, elements=10**6, written=10**6):
        watched = make()
    assert plain[1:] == watched[1:]
    for one, other in zip(plain[0].parameters(), watched[0].parameters(), strict=True):
        assert torch.equal(one, other)
