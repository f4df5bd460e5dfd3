"""Several threads at one model: each sees the adapters that it asked for, and no state between two changes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import zoo
from zoo.errors import AdapterError
from zoo.weights.choice import CHOSEN

LIMIT = 60  # seconds


@pytest.fixture(autouse=True)
def threads_that_alternate() -> Iterator[None]:
    """Let threads take turns often, so that few calls suffice."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(before)


def net(*more: nn.Module, **options: Any) -> zoo.Model:
    """Return a model of six layers with adapters "a" and "b" that have effects, in evaluation mode."""
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(6, 6), *more, nn.Tanh()) for _ in range(6)]
    two = {name: zoo.LoRA(2, targets="all") for name in "ab"}
    model = zoo.wrap(nn.Sequential(*layers), lora=two, seed=0, **options)
    with torch.no_grad():
        for parameter in model.module.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    return model.eval()


def together(*calls: Callable[[], Any], first: Callable[[], Any] | None = None) -> list[Any]:
    """Run calls in a thread each, all again until `first` has ended; return what they returned, call by call."""
    ended = Event()

    def run(call: Callable[[], Any]) -> list[Any]:
        found = [call()]
        while first is not None and not ended.is_set():
            found.append(call())
        return found

    with ThreadPoolExecutor(len(calls) + 1) as pool, torch.no_grad():
        running = [pool.submit(run, call) for call in calls]
        try:
            if first is not None:
                first()
        finally:
            ended.set()
        return [one.result(timeout=LIMIT) for one in running]


@pytest.mark.parametrize("kind", ["plain", "4 bit", "batch norm", "training"])
def test_calls_with_adapters_of_their_own(kind: str) -> None:
    more = (nn.BatchNorm1d(6),) if kind == "batch norm" else ()
    model = net(*more, bits=4 if kind == "4 bit" else None)
    model.activate("a")
    if kind == "batch norm":
        model.train()(torch.randn(9, 6) * 3)  # statistics of the adapter's own
        model.eval()
    elif kind == "training":
        model.train()
    x, choices = torch.randn(4, 6), (["a", "b", None, "a"], ["b", "a", ("a", "b"), None], [None, {"b": 0.5}, "a", "b"])
    calls = [lambda choice=choice: model(x, adapters=choice) for choice in choices] + [lambda: model(x)]
    with torch.no_grad():
        expected = [call() for call in calls]

    def each(call: Callable[[], Tensor]) -> Callable[[], list[Tensor]]:
        def run() -> list[Tensor]:
            with torch.no_grad():
                return [call() for _ in range(8)]

        return run

    for (found,), one in zip(together(*map(each, calls)), expected, strict=True):
        assert all(torch.equal(y, one) for y in found)
    assert model.active == ("a",)


def test_a_forward_pass_sees_all_of_a_change_or_nothing(tmp_path: Path) -> None:
    model = net()
    for name in "ab":
        model.save_adapter(tmp_path / name, name)
    x, states = torch.randn(4, 6), []

    def changes() -> None:
        for names in (("a",), ("b",), ("a", "b"), ("a",)):
            model.activate(*names)
            keep()
        model.merge("a")
        keep()
        model.unmerge()
        keep()
        model.swap_adapter("a", str(tmp_path / "b"))
        keep()
        model.swap_adapter("a", str(tmp_path / "a"))
        model.add_adapter("c", str(tmp_path / "b"))
        keep()
        model.remove_adapter("c")
        model.deactivate()
        keep()

    def keep() -> None:
        if len(states) < 9:
            with torch.no_grad():
                states.append(model(x))

    changes()
    assert len(states) == 9

    def forward() -> Tensor:
        with torch.no_grad():
            return model(x)

    found = together(forward, forward, first=lambda: [changes() for _ in range(2)])
    assert all(any(torch.equal(y, state) for state in states) for seen in found for y in seen)


def test_gradients_of_calls_with_adapters_of_their_own() -> None:
    """What is recomputed in the backward pass has the adapters of its forward pass, in each thread."""
    model = net()
    model.activate("a", "b")

    class Recomputing(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.inner:
                x = checkpoint(layer, x, use_reentrant=False)
            return x

    model.adapter_set.module = Recomputing(model.module)
    x, parameters = torch.randn(4, 6), [one for one in model.module.parameters() if one.requires_grad]

    def gradients(choice: Any) -> tuple[Tensor | None, ...]:
        with torch.enable_grad():
            y = model(x) if choice is None else model(x, adapters=choice)
            return torch.autograd.grad(y.square().sum(), parameters, allow_unused=True)

    choices = (["a", "b", None, "a"], ["b", "b", "b", ("a", "b")], None)
    calls = [lambda choice=choice: [gradients(choice) for _ in range(6)] for choice in choices]
    expected = [gradients(choice) for choice in choices]
    for (found,), right in zip(together(*calls), expected, strict=True):
        for one in found:
            for got, want in zip(one, right, strict=True):
                assert (got is None) == (want is None)
                assert got is None or torch.equal(got, want)  # type: ignore[arg-type]


def test_a_backward_pass_that_fails_leaves_no_choice_behind() -> None:
    model = net()
    model.activate("a")
    x = torch.randn(2, 6)
    plain = model(x)
    y = model(x, adapters=["b", None])

    class Failing(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            raise KeyError

    first = Failing.apply(model.module[0](x))
    loss = model(x, adapters=["b", "a"]).sum() + first.sum()
    with pytest.raises(KeyError):
        loss.backward()
    assert torch.equal(model(x), plain)
    assert torch.equal(model(x, adapters=["b", None]), y)
    CHOSEN.set(None)


def test_a_module_in_which_a_model_changes_itself() -> None:
    model = net()
    model.activate("a")
    x = torch.randn(2, 6)
    only_b = model(x, adapters=["b", "b"])
    model.module.register_forward_pre_hook(lambda *_: model.activate("b"))
    assert torch.equal(model(x), only_b)


def test_two_threads_add_one_name() -> None:
    model = net()

    def add() -> str:
        try:
            model.add_adapter("c", 2)
            return "added"
        except AdapterError as error:
            return str(error)

    found = sorted(one for (one,) in together(add, add, add))
    assert found.count("added") == 1
    assert sum("there is an adapter 'c' already" in one for one in found) == 2


@pytest.mark.parametrize("bits", [None, 4])
def test_after_a_merge_nothing_passes_for_the_base(bits: int | None) -> None:
    model = net(bits=bits)
    x = torch.randn(2, 6)
    model.deactivate()
    base = model(x)
    model.activate("a")
    model.merge("a")
    merged = model(x)
    for call in (
        model.deactivate,
        model.activate,
        lambda: model.activate(weights=()),
        lambda: model(x, adapters=["b", None]),
        lambda: model(x, adapters=[(), "b"]),
        lambda: model(x, adapters=["b", {}]),
    ):
        with pytest.raises(AdapterError, match=r"'a' is merged, .* not the base's: model.unmerge\(\) first"):
            call()
        assert torch.equal(model(x), merged)
    for verb in (model.remove_adapter, lambda name: model.swap_adapter(name, 2), model.activate):
        with pytest.raises(AdapterError, match=r"'a' is merged into the base: .*unmerge"):
            verb("a")
    model.activate("b")  # on top of what is merged
    model.remove_adapter("b")
    model.unmerge()
    model.deactivate()
    assert torch.equal(model(x), base)
