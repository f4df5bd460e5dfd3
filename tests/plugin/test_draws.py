"""Random numbers of a request: torch's own for one seed, and those of each sample alone for several."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from zoo.errors import ZooError
from zoo.plugin.draws import Draws
from zoo.plugin.requests import SampleRequest, SeveralSeedsError

WAYS: list[tuple[Callable[[Draws, int], Tensor], Callable[[int, torch.Generator], Tensor]]] = [
    (lambda draws, n: draws.normal((n, 3, 7)), lambda n, own: torch.randn(n, 3, 7, generator=own)),
    (lambda draws, n: draws.uniform((n, 5)), lambda n, own: torch.rand(n, 5, generator=own)),
    (lambda draws, n: draws.exponential((n, 40)), lambda n, own: torch.empty(n, 40).exponential_(generator=own)),
    (
        lambda draws, n: draws.permutation(6),
        lambda n, own: torch.stack([torch.randperm(6, generator=own) for _ in range(n)]),
    ),
]


def test_one_seed_draws_what_torch_draws() -> None:
    for request in (SampleRequest(4, 7), SampleRequest(1, seeds=(7,))):
        draws, generator = request.draws(), torch.Generator().manual_seed(7)
        assert all(torch.equal(way(draws, request.n), plain(request.n, generator)) for way, plain in WAYS)
        assert request.seed == 7
    assert not torch.equal(SampleRequest(2).draws().normal((2, 9)), SampleRequest(2).draws().normal((2, 9)))


def test_a_sample_with_its_own_seed_has_what_it_has_alone() -> None:
    seeds = (3, -1, 3, 2**63)
    together = SampleRequest(4, seeds=seeds).draws()
    alone = [SampleRequest(1, seed).draws() for seed in seeds]
    for way, _ in WAYS:
        assert torch.equal(way(together, 4), torch.cat([way(draws, 1) for draws in alone]))
    some = together.of(slice(1, 3))
    assert torch.equal(some.normal((2, 4)), torch.cat([draws.normal((1, 4)) for draws in alone[1:3]]))
    with pytest.raises(ValueError, match="begins with the number of samples, 4"):
        together.normal((3, 2))


def test_several_seeds_are_not_one() -> None:
    request = SampleRequest(2, seeds=(1, 2))
    for ask in (lambda: request.seed, request.generator):
        with pytest.raises(SeveralSeedsError):
            ask()
    assert "seeds=(1, 2)" in repr(request)
    assert request.declared(()).seeds == (1, 2)
    assert request == SampleRequest(2, seeds=(1, 2)) != SampleRequest(2, seeds=(1, 3))
    for wrong in ({"n": 3}, {"seed": 1}, {"seeds": (1, None)}, {"seeds": (1, "x")}, {"seeds": (1, 2**64)}):
        with pytest.raises(ZooError):
            SampleRequest(**{"n": 2, "seeds": (1, 2)} | wrong)
