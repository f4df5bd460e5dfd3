"""Samples of one call that have adapters and seeds of their own: equal to separate calls, for every plugin."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import zoo
from zoo.errors import AdapterError, ZooError
from zoo.samples import Samples

from .helpers import error, perturb

ROWS: list[Any] = ["b", None, "a", "b", {"a": 0.5, "b": -0.5}]
OPTIONS: dict[str, dict[str, Any]] = {
    "vae": {},
    "ddpm": {"steps": 2, "eta": 1.0, "labels": [0, 1, 2, 1, 0]},
    "stylegan": {"noise": "random", "crossover": 3, "labels": [0, 1]},
    "bert": {"length": 5, "mode": "gibbs", "steps": 2},
    "gpt": {"prompt": "A", "max_new_tokens": 6},
}


def tuned(name: str, size: float = 0.1) -> zoo.Model:
    lora = {key: zoo.LoRA(rank=2, targets="all") for key in "ab"}
    model = zoo.load(name, lora=lora, device="cpu")
    torch.manual_seed(0)
    perturb(model, size)
    return model


def alike(found: Samples, wanted: Samples) -> bool:
    assert found.captions == wanted.captions
    return found.data == wanted.data if isinstance(found.data, list) else error(found.data, wanted.data) < 1e-4


@pytest.mark.parametrize("name", OPTIONS)
def test_samples_with_their_own_seeds_and_adapters_equal_separate_calls(name: str) -> None:
    model = tuned(name)
    seeds, options = [5, 6, 5, 7, 2**40], OPTIONS[name]
    found = model.sample(adapters=ROWS, seeds=seeds, **options)
    assert model.active == ("a", "b")
    apart = []
    for number, (row, seed) in enumerate(zip(ROWS, seeds, strict=True)):
        own = {key: value[number % len(value)] if key == "labels" else value for key, value in options.items()}
        apart.append(
            model.sample(1, seed=seed, adapters=[row], **own | {"labels": [own["labels"]]} if "labels" in own else own)
        )
        model.activate(
            *([row] if isinstance(row, str) else row or ()),
            weights=list((row or {}).values()) if isinstance(row, dict) else None,
        )
        again = model.sample(1, seed=seed, **own | {"labels": [own["labels"]]} if "labels" in own else own)
        assert alike(apart[-1], again)
        model.activate("a", "b")
    assert alike(found, Samples.joined(apart))
    assert len({str(one.data) for one in apart}) > 3


def test_one_seed_is_that_of_each_group() -> None:
    model = tuned("vae")
    found = model.sample(4, seed=3, adapters=["a", None, "a", None])
    model.activate("a")
    assert torch.equal(found[[0, 2]].data, model.sample(2, seed=3).data)
    model.deactivate()
    assert torch.equal(found[[1, 3]].data, model.sample(2, seed=3).data)


def test_what_has_no_sample_for_each_entry_is_refused() -> None:
    model = zoo.load("gpt", lora=2, device="cpu")
    name = model.active[0]
    with pytest.raises(ZooError, match="one prompt"):
        model.sample(2, adapters=[name, None], prompts=["A", "B"], max_new_tokens=2)
    with pytest.raises(ZooError, match="one prompt"):
        model.sample(seeds=[1, 2], prompts=["A", "B"], max_new_tokens=2)
    for wrong in (
        {"n": 3, "adapters": [name, None]},
        {"n": 3, "seeds": [1, 2]},
        {"seed": 1, "seeds": [1]},
        {"seeds": 3},
    ):
        with pytest.raises(ZooError):
            model.sample(**wrong)
    with pytest.raises(AdapterError, match="a list with one entry"):
        model.sample(1, adapters=name)
