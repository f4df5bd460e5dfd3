"""Sampling keeps dense weights for the time of the call."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

import zoo
from tests.model.helpers import perturb
from zoo.testing.strict import strict_accelerator
from zoo.weights.codecs import FourBit


@pytest.fixture
def unpacked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count how often a 4-bit weight is dequantized."""
    counted: Counter[str] = Counter()
    unpack = FourBit.unpack

    def counting(self: FourBit, tensors: Any, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        counted["times"] += 1
        return unpack(self, tensors, shape, dtype)

    monkeypatch.setattr(FourBit, "unpack", counting)
    return counted


@pytest.mark.parametrize("lora", [4, zoo.LoRA(4, dora=True)])
def test_a_sampler_computes_dense_weights_twice_at_most(lora: Any, unpacked: Counter[str]) -> None:
    model = zoo.load("ddpm", bits=4, lora=lora, seed=0)
    perturb(model, 0.01)
    images, times = [], []
    for cache in (None, "auto", "dense", "2MB"):
        unpacked.clear()
        images.append(model.sample(2, seed=0, steps=5, cache=cache).data)
        times.append(unpacked["times"])
    assert times[1] == times[2] < times[3] < times[0]
    assert times[0] >= 5 / 2 * times[1]  # DoRA's norms dequantize a weight once more at each step
    for image in images[1:]:
        assert torch.allclose(image, images[0], atol=1e-4)
    again = model.sample(2, seed=0, steps=5).data
    assert torch.equal(again, images[1])  # a seed gives the same images, whatever was computed before


def test_in_a_block_loops_of_ones_own_are_as_fast(unpacked: Counter[str]) -> None:
    model = zoo.load("gat", bits=4)
    x, edges = torch.randn(5, model.module.in_channels), torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]])
    unpacked.clear()
    with model.caching("dense"), torch.no_grad():
        for _ in range(6):
            model(x, edges)
    assert 0 < unpacked["times"] <= 2 * sum(4 <= (info.bits or 0) < 6 for info in model.weights())


def test_cache_is_checked_before_anything_is_drawn() -> None:
    model = zoo.load("gat")
    with pytest.raises(zoo.ZooError, match="expected cache as"):
        model.sample(1, cache="lots")
    with pytest.raises(zoo.ZooError, match="expected cache as"):
        model.evaluate(cache=3.5)  # type: ignore[arg-type]


LOOPS: dict[str, list[dict[str, Any]]] = {
    "ddpm": [{"steps": 3}, {"steps": 6}, {"steps": 6, "eta": 1.0}],
    "ddpm, as it was trained": [{"sampler": "ddpm", "steps": 2}, {"sampler": "ddpm", "steps": 4}],
    "bert": [{"length": 3}, {"length": 6}],
    "bert, again and again": [{"mode": "gibbs", "length": 3, "steps": steps} for steps in (2, 4)],
    "bert, all at once": [{"mode": "mask-predict", "length": 3, "steps": steps} for steps in (2, 4)],
}


@pytest.mark.parametrize("loop", LOOPS)
def test_a_loop_never_waits_for_its_device(loop: str) -> None:
    """The host waits as often whatever the number of steps: for what is given back."""
    name = loop.partition(",")[0]
    with strict_accelerator() as waits:
        model = zoo.load(name, bits=4, device="sim")
        counts = []
        for options in LOOPS[loop]:
            waits.clear()
            drawn = model.sample(2, seed=0, **options)
            counts.append(len(waits.synchronisations))
            expected = zoo.load(name, bits=4, device="cpu").sample(2, seed=0, **options)
            if isinstance(expected.data, Tensor):
                assert torch.allclose(drawn.data, expected.data, atol=1e-3)  # steps go on from rounded sums
            else:
                assert drawn.data == expected.data
    assert len(set(counts)) == 1
    assert counts[0] <= 3, waits.by_line()
