"""Loading beside other threads, which see nothing of it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
import torch
from torch import nn

import zoo


def test_other_threads_modules_and_numbers_are_as_ever() -> None:
    """While gpt, whose configuration says float16, and others load: parameters, default dtype, random numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        expected = [torch.rand(2) for _ in range(4000)]
        torch.manual_seed(5)
        ended = Event()

        def load() -> None:
            try:
                for number in range(1):
                    zoo.load("gpt", device="cpu", lora=2, seed=number)
                    zoo.load("vit", device="meta")
                    model = zoo.load("gpt", weights="random", device="cpu", seed=number)
                    model.sample(seed=0, max_new_tokens=3)
            finally:
                ended.set()

        with ThreadPoolExecutor(1) as pool:
            loading, drawn = pool.submit(load), 0
            while not ended.wait(1e-3) and drawn < len(expected):
                layer = nn.utils.skip_init(nn.Linear, 2, 2)
                assert not layer.weight.is_meta
                assert layer.weight.dtype is torch.float32
                assert type(layer.weight) is nn.Parameter
                assert torch.equal(torch.rand(2), expected[drawn])
                drawn += 1
            loading.result(timeout=120)
        assert drawn


@pytest.mark.parametrize("options", [{"lora": 2, "bits": 4}, {"weights": "random"}], ids=["quantized", "random"])
def test_two_loads_at_once(options: dict[str, object]) -> None:
    def load(name: str) -> dict[str, torch.Tensor]:
        return zoo.load(name, device="cpu", seed=1, **options).state_dict()  # type: ignore[arg-type]

    names = ["gpt", "vit"]
    with ThreadPoolExecutor(2) as pool:
        found = [one.result(timeout=120) for one in [pool.submit(load, name) for name in names]]
    for name, state in zip(names, found, strict=True):
        alone = load(name)
        assert state.keys() == alone.keys()
        assert all(torch.equal(state[key], alone[key]) for key in alone)
