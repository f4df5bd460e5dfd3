"""An adapter saved as PEFT writes it, and the check that a model refuses one and does not change."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.errors import AdapterError, ZooError

from .saved_folders import MANIFEST, TARGETS


@pytest.fixture
def saved(mixed: nn.Module, tmp_path: Path, perturb: Callable[..., None]) -> Path:
    """Return the folder of an adapter of `mixed`, without zoo.json, as PEFT writes it."""
    model = zoo.wrap(copy.deepcopy(mixed), lora=zoo.LoRA(rank=2, targets=TARGETS))
    perturb(model)
    folder = model.save_adapter(tmp_path / "saved")
    (folder / MANIFEST).rename(tmp_path / MANIFEST)
    return folder


@pytest.fixture(params=[None, 4])
def refuses(request: pytest.FixtureRequest, mixed: nn.Module, ids: Tensor) -> Iterator[Callable[..., None]]:
    """Return refuses(lora, match): check that a model with an adapter rejects this one, and does not change."""
    model = zoo.wrap(copy.deepcopy(mixed), bits=request.param, lora={"first": zoo.LoRA(rank=2, targets=["fc"])})
    with torch.no_grad():
        for _, parameter in model.trainable_parameters():
            parameter.add_(0.1)

    def state() -> tuple[Any, ...]:
        names = [name for name, _ in model.module.named_parameters()]
        trains = [parameter.requires_grad for parameter in model.module.parameters()]
        return dict(model.adapters), model.active, names, trains, list(model.weights())

    def check(lora: Any, match: str, error: type[ZooError] = AdapterError, name: str = "new") -> None:
        with torch.no_grad():
            before, output = state(), model(ids)
            with pytest.raises(error, match=match) as caught:
                model.add_adapter(name, lora)
            assert "\n" not in str(caught.value), "an error is one line"
            assert state() == before
            assert torch.equal(model(ids), output)
            if isinstance(lora, Path):
                with pytest.raises(error, match=match):
                    zoo.wrap(copy.deepcopy(mixed), lora={"good": 2, "bad": lora})

    yield check
    assert list(model.adapters) == ["first"]
