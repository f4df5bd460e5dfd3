"""Every way to store the weights, with and without LoRA: everything that can be done with a model."""

from __future__ import annotations

from copy import deepcopy
from itertools import islice
from pathlib import Path

import pytest
import torch

import zoo

LINES = [f"the name of file {index} is not the value of text {index}, it returns none" for index in range(40)]
PAIRS = [(f"the file is {'not' if at % 2 == 0 else 'a'} value", at % 2) for at in range(20)]


COMBINATIONS = [(bits, lora, None) for bits in (None, 32, 16, 8, 4) for lora in (None, "all")]


@pytest.mark.parametrize(("bits", "lora", "classes"), [*COMBINATIONS, (4, "all", ["bad", "good"])])
def test_a_combination(make, tmp_path: Path, bits: int | None, lora: str | None, classes: list[str] | None) -> None:
    folder = make("bert", classes=classes, hidden_size=64, intermediate_size=64)
    config = zoo.LoRA(rank=4, targets="all") if lora else None
    model = zoo.load(str(folder), device="cpu", bits=bits, lora=config, seed=0)
    data = PAIRS if classes else LINES
    options = {"text": "the file is not a value"} if classes else {"length": 5}
    assert model.sample(2, seed=0, **options).text() == model.sample(2, seed=0, **options).text()

    batch = next(iter(model.batches(data, batch_size=8, seed=0)))
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    with torch.no_grad():
        logits = model.module(**inputs).logits
        assert torch.equal(deepcopy(model.module)(**inputs).logits, logits)

    if lora is None and bits in (16, 8, 4):  # what is stored in a type of its own does not train by itself
        with pytest.raises(zoo.TuningError):
            list(model.trainable_parameters())
        return
    model.loss(batch).backward()
    assert all(parameter.grad.isfinite().all() for _, parameter in model.trainable_parameters())
    model.module.zero_grad()
    held = list(islice(model.batches(data, batch_size=8, seed=0), 5))
    with torch.no_grad():
        before = sum(model.loss(each).item() for each in held)
    model.tune(data, steps=5, batch_size=8, lr=2e-3, seed=0)
    with torch.no_grad():
        assert sum(model.loss(each).item() for each in held) < before
        tuned = model.module(**inputs).logits
    if lora is None:
        return
    adapter = model.save_adapter(tmp_path / "adapter")
    again = zoo.load(str(folder), device="cpu", bits=bits, lora=str(adapter))
    with torch.no_grad():
        assert torch.equal(again.module(**inputs).logits, tuned)
        model.merge()
        assert torch.allclose(model.module(**inputs).logits, tuned, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "lora"), [(None, None), (4, "all")])
def test_the_forward_compiles(make, bits: int | None, lora: str | None) -> None:
    config = zoo.LoRA(rank=4, targets="all") if lora else None
    model = zoo.load(str(make("bert", num_hidden_layers=1)), device="cpu", bits=bits, lora=config, seed=0)
    torch.compiler.reset()
    compiled = torch.compile(model.module, backend="aot_eager")
    ids = torch.randint(5, 60, (2, 20))
    with torch.no_grad():
        assert torch.allclose(compiled(input_ids=ids).logits, model.module(input_ids=ids).logits, atol=1e-4)
