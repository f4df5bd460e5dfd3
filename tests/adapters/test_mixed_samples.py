"""Samples of one call that have adapters and seeds of their own: equal to separate calls, for every plugin."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import zoo
from zoo.adapters import fused_batch
from zoo.adapters.fused_batch import Verdict
from zoo.errors import AdapterError, ZooError
from zoo.samples import Samples

from .helpers import error, perturb

ROWS: list[Any] = ["b", None, "a", "b", {"a": 0.5, "b": -0.5}]
OPTIONS: dict[str, dict[str, Any]] = {
    "vae": {},
    "ddpm": {"steps": 2, "eta": 1.0, "labels": [0, 1, 2, 1, 0]},
    "stylegan": {"noise": "random", "crossover": 3, "labels": "BAD"},
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
    first, then = (model.sample(adapters=ROWS, seeds=seeds, **options) for _ in range(2))
    assert model.active == ("a", "b")
    apart = []
    for number, (row, seed) in enumerate(zip(ROWS, seeds, strict=True)):
        weights = row if isinstance(row, dict) else {row: 1.0} if row else {}
        model.activate(*weights, weights=list(weights.values()))
        labels = {"labels": options["labels"][number % len(options["labels"])]} if "labels" in options else {}
        apart.append(model.sample(1, seed=seed, **options | labels))
    assert alike(first, Samples.joined(apart))
    assert alike(then, Samples.joined(apart))
    assert len({str(one.data) for one in apart}) > 3
    alone = model.sample(seeds=seeds, **options)  # all under the last of the choices
    assert alike(alone[4], apart[4])
    verdicts = fused_batch._known.get(model.module, {}).values()
    assert (Verdict.YES in verdicts) == (name != "stylegan")  # whose buffers adapters have of their own


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
