"""Mixed batches by one run of the module: trusted only where it was seen to equal separate runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.adapters import fused_batch
from zoo.adapters.fused_batch import Verdict

from .helpers import error, out, perturb

LORA = {"a": zoo.LoRA(rank=2, targets="all"), "b": zoo.LoRA(rank=3, targets="all")}
ROWS: list[Any] = ["b", None, "a", "b", {"a": 0.5, "b": -1}]


class Counting(nn.Module):
    """Two layers, of which it counts the runs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.runs = nn.Linear(24, 40), nn.Linear(40, 24), 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        return self.second(self.between(self.first(x)).tanh())

    def between(self, x: Tensor) -> Tensor:
        return x


class SequenceFirst(Counting):
    """Its second layer has the sequence in the first dimension."""

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        return self.second(self.first(x).transpose(0, 1)).transpose(0, 1)


class Noisy(Counting):
    """It draws random numbers in evaluation mode, too."""

    def between(self, x: Tensor) -> Tensor:
        return x + torch.randn(x.shape)


class Sums(Counting):
    """A dense weight is wanted for all."""

    def between(self, x: Tensor) -> Tensor:
        return x + self.first.weight.sum()


def model_of(module: Counting, lora: Any = None, size: float = 0.3) -> tuple[zoo.Model, Counting]:
    model = zoo.wrap(module.eval(), lora=lora or LORA)
    perturb(model, size)
    return model, module


def runs(model: zoo.Model, x: Tensor, adapters: Any = None) -> tuple[Tensor, int]:
    """Return the output and how often the module ran for it."""
    before = model.module.runs
    found = out(model, x, adapters=ROWS if adapters is None else adapters)
    return found, model.module.runs - before


def apart(model: zoo.Model, x: Tensor, adapters: Any = None) -> Tensor:
    """Return what a call with gradients gives, which runs once for each group."""
    with torch.enable_grad():
        return model(x, adapters=ROWS if adapters is None else adapters).detach()


def test_the_module_runs_once_when_it_was_seen_to_be_right() -> None:
    model, _ = model_of(Counting())
    x = torch.randn(5, 3, 24)
    assert runs(model, x)[1] == 4 + 2  # separately, together, and together under others
    for _ in range(3):
        x = torch.randn(5, 7, 24)
        found, number = runs(model, x)
        assert number == 1
        assert error(found, apart(model, x)) < 1e-5
    assert torch.equal(found, out(model, x, adapters=ROWS))  # no other rounding in the next call
    assert runs(model, x[:, :1])[1] > 1  # one position, as many as samples, fewer samples, other kinds: seen for itself
    assert runs(model, torch.randn(5, 5, 24))[1] > 1
    assert runs(model, x[:3], ["a", None, "b"])[1] > 1
    model.add_adapter("c", zoo.LoRA(rank=2, targets=["second"]))
    perturb(model)
    assert runs(model, x, ["c", None, "a", "b", "c"])[1] > 1
    assert runs(model, x, ["c", None, "a", "b", "c"])[1] == 1
    assert runs(model, x)[1] == 1
    with torch.enable_grad():
        before = model.module.runs
        model(x, adapters=ROWS)
        assert model.module.runs == before + 4
    model.train()
    assert runs(model, x)[1] == 4


@pytest.mark.parametrize(("kind", "positions"), [(SequenceFirst, 3), (SequenceFirst, 5), (Noisy, 3), (Sums, 3)])
def test_a_module_that_is_not_by_row_runs_for_each_group(kind: type[Counting], positions: int) -> None:
    model, module = model_of(kind())
    for _ in range(3):
        x = torch.randn(5, positions, 24)
        torch.manual_seed(1)
        found, number = runs(model, x)
        torch.manual_seed(1)
        assert error(found, apart(model, x)) < 1e-6
    assert number == 4
    assert Verdict.YES not in fused_batch._known[module].values()


def test_adapters_that_change_nothing_prove_nothing() -> None:
    model, module = model_of(SequenceFirst(), size=0.0)
    x = torch.randn(5, 5, 24)
    for _ in range(9):
        assert error(out(model, x, adapters=ROWS), out(model, x)) < 1e-6
    assert set(map(type, fused_batch._known[module].values())) == {int}
    perturb(model)
    for _ in range(16):
        assert error(out(model, x, adapters=ROWS), apart(model, x)) < 1e-6
    model, module = model_of(Counting(), size=0.0)
    assert runs(model, x)[1] > 4
    perturb(model)
    assert [runs(model, x)[1] for _ in range(2)] == [6, 1]


def test_an_argument_that_the_module_changes_stays_the_callers() -> None:
    class Appending(Counting):
        def forward(self, x: Tensor, past: list[Tensor]) -> Tensor:  # type: ignore[override]
            past[0] = torch.cat([past[0], x], 1)
            past[0] += 0
            return super().forward(past[0])

    model, _ = model_of(Appending())
    past, x = [torch.randn(5, 2, 24)], torch.randn(5, 1, 24)
    kept = past[0].clone()
    for _ in range(2):
        out(model, x, past, adapters=ROWS)
        assert torch.equal(past[0], kept)


def test_an_error_of_the_calls_own_is_raised() -> None:
    model, _ = model_of(Counting())
    runs(model, torch.randn(5, 24))
    for wrong in (torch.randn(5, 3), torch.randn(5, 24).double()):
        with pytest.raises(RuntimeError):
            runs(model, wrong)
    assert runs(model, torch.randn(5, 24))[1] == 1
