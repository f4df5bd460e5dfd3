"""Several adapters in one batch with the base computed once: equal to one run for each, and refused where not sure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import zoo
from zoo.weights.choice import CHOSEN, Banks, choosing, choosing_rows, row_views
from zoo.weights.codecs import FourBit
from zoo.weights.ops.stacked import Stack
from zoo.weights.row_bank import Bank, Room
from zoo.weights.row_views import NotByRow
from zoo.weights.walk import managed_weights

CHOICES: tuple[dict[str, float], ...] = ({"a": 1.0}, {}, {"b": 1.0}, {"a": 0.5, "b": -1.0}, {"c": 1.0})
ROWS = ([0, 1], [2, 5], [3, 8], [4], [6, 7])
COUNT = 9


class Conv1D(nn.Module):
    """As transformers' of that name, for which weights are (in, out)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs) / 8), nn.Parameter(torch.randn(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight).view(*x.shape[:-1], -1)


class Products(nn.Module):
    """A weight in `x @ W` and in `W @ x`."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(64, 32) / 8), nn.Parameter(torch.randn(48, 32) / 8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.matmul(self.second, (x @ self.first).mT)


class Tied(nn.Module):
    """A table that is also the head's weight, and positions that all samples share."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.places, self.head = nn.Embedding(50, 64), nn.Embedding(5, 64), nn.Linear(64, 50, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head((self.embed(ids) + self.places(torch.arange(ids.shape[1]).unsqueeze(0))).tanh())


class Places(nn.Module):
    """Positions as a parameter that is added, and a token that comes first."""

    def __init__(self) -> None:
        super().__init__()
        self.places, self.first = nn.Parameter(torch.randn(1, 6, 64)), nn.Parameter(torch.randn(1, 1, 64))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.first.expand(len(x), -1, -1), x], dim=1) + self.places


MODULES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "linear": (lambda: nn.Sequential(nn.Linear(64, 96), nn.Tanh(), nn.Linear(96, 64)), lambda: torch.randn(COUNT, 64)),
    "linear of sequences": (lambda: nn.Linear(64, 96), lambda: torch.randn(COUNT, 3, 64)),
    "linear with many positions": (lambda: nn.Linear(160, 160), lambda: torch.randn(COUNT, 400, 160)),
    "Conv1D": (lambda: Conv1D(64, 96), lambda: torch.randn(COUNT, 1, 64)),
    "Conv1D of sequences": (lambda: Conv1D(64, 96), lambda: torch.randn(COUNT, 4, 64)),
    "matmul": (Products, lambda: torch.randn(COUNT, 5, 64)),
    "places": (Places, lambda: torch.randn(COUNT, 5, 64)),
    "tied": (Tied, lambda: torch.randint(0, 50, (COUNT, 5))),
    "conv1d": (lambda: nn.Conv1d(64, 32, 3, padding=1), lambda: torch.randn(COUNT, 64, 10)),
    "conv2d": (
        lambda: nn.Sequential(nn.Conv2d(8, 64, 3, padding="same"), nn.Conv2d(64, 32, 3, stride=2, groups=2)),
        lambda: torch.randn(COUNT, 8, 9, 9).to(memory_format=torch.channels_last),
    ),
    "up": (lambda: nn.ConvTranspose2d(64, 32, 2, stride=2), lambda: torch.randn(COUNT, 64, 4, 4)),
}


def adapted(module: nn.Module, bits: Any = None, **kinds: Any) -> zoo.Model:
    """Return the module with three adapters that have an effect."""
    kinds = {name: zoo.LoRA(rank=rank, targets="all") for name, rank in zip("abc", (4, 2, 3), strict=True)} | kinds
    model = zoo.wrap(module.eval(), bits=bits, lora=kinds)
    with torch.no_grad():
        for name, parameter in model.module.named_parameters():
            if ".updates." in name:
                parameter.copy_(parameter + 0.2 * torch.randn_like(parameter))
    return model


def views(model: zoo.Model, choice: dict[str, float]) -> Any:
    return {one: one.view(tuple(choice), choice) for one in managed_weights(model.module).values()}


def together(model: zoo.Model, x: Tensor, rows: Any = ROWS, flattened: bool = True) -> Tensor:
    groups = [(views(model, choice), list(own)) for choice, own in zip(CHOICES, rows, strict=False)]
    with torch.no_grad(), choosing_rows(groups, flattened=flattened):
        return model.module(x)


def separately(model: zoo.Model, x: Tensor, rows: Any = ROWS) -> Tensor:
    parts = []
    for choice, own in zip(CHOICES, rows, strict=False):
        with torch.no_grad(), choosing(views(model, choice)):
            parts.append(model.module(x[own]))
    order = torch.tensor([row for own in rows for row in own]).argsort()
    return torch.cat(parts)[order]


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


@pytest.mark.parametrize("bits", [None, 8, 4])
@pytest.mark.parametrize("name", MODULES)
def test_rows_under_their_own_adapters_equal_separate_runs(name: str, bits: int | None) -> None:
    make, draw = MODULES[name]
    model = adapted(make(), bits if bits is None else zoo.Quantization(bits, mixed=False) if bits == 4 else bits)
    x = draw()
    apart = separately(model, x)
    assert error(together(model, x), apart) < 1e-5
    shuffled = separately(model, x, [*ROWS[1:], ROWS[0]])
    assert error(shuffled, apart) > 1e-3  # other rows under the adapters are seen


@pytest.mark.parametrize("name", ["linear", "Conv1D", "tied", "conv2d"])
def test_it_is_as_exact_as_separate_runs(name: str) -> None:
    make, draw = MODULES[name]
    fused, apart = 0.0, 0.0
    for seed in range(6):
        torch.manual_seed(seed)
        model, x = adapted(make()), draw()
        found, wanted = together(model, x), separately(model, x)
        model.module.double()
        exact = separately(model, x.double() if x.is_floating_point() else x)
        fused, apart = fused + error(found, exact), apart + error(wanted, exact)
    assert fused < 1.2 * apart


@pytest.mark.parametrize(
    "kind", [zoo.LoRA(2, targets="all", dora=True), zoo.LoHa(2, targets="all"), zoo.LoKr(2, targets="all")]
)
def test_kinds_that_do_not_add_take_products_of_their_own(kind: Any) -> None:
    for name in ("linear", "conv1d", "tied"):
        make, draw = MODULES[name]
        model, x = adapted(make(), c=kind), draw()
        assert error(together(model, x), separately(model, x)) < 1e-5


def test_consecutive_rows_and_groups_alike() -> None:
    model, x = adapted(MODULES["linear"][0]()), torch.randn(COUNT, 64)
    for rows in ([range(4), range(4, 9)], [range(3), range(3, 5), range(5, 9)]):
        assert error(together(model, x, rows), separately(model, x, [list(own) for own in rows])) < 1e-5
    other, alike = adapted(nn.Linear(4, 4)), {"a": 1.0}  # a weight that does not differ keeps every operation
    with torch.no_grad(), choosing_rows([(views(other, alike), [0]), (views(other, alike), [1])]):
        assert torch.equal(other.module.weight + 0, other.module.weight.dense())


def test_what_is_not_surely_by_row_is_refused() -> None:
    model = adapted(nn.Linear(64, 64))
    groups = [(views(model, {"a": 1.0}), [0, 1]), (views(model, {}), [2])]
    x, weight = torch.randn(3, 64), model.module.weight
    with choosing_rows(groups):
        with pytest.raises(NotByRow, match="without gradients"):
            model.module(x)
        with torch.no_grad():
            for wrong in (
                lambda: model.module(x[:2]),
                lambda: model.module(x.repeat(2, 1)),
                lambda: model.module(x[0]),
                lambda: F.linear(torch.randn(64, 3).mT.contiguous()[:1], weight),
                lambda: weight @ x.mT,
                lambda: weight + 1,
                lambda: weight[0],
                lambda: torch.einsum("ni,oi->no", x, weight),
                lambda: weight.norm(),
            ):
                with pytest.raises(NotByRow):
                    wrong()
            assert model.module(x).shape == (3, 64)
            model.train()
            with pytest.raises(NotByRow, match="evaluation"):
                model.module(x)
    model.eval()
    with torch.no_grad(), choosing_rows(groups, flattened=True), pytest.raises(NotByRow):
        model.module(torch.randn(4, 64))
    full = adapted(nn.Linear(64, 64), c=zoo.Full("all"))  # another bias for each row
    rows = [(views(full, {"c": 1.0}), [0]), (views(full, {}), [1])]
    with torch.no_grad(), choosing_rows(rows), pytest.raises(NotByRow):
        full.module(x[:2])


MANY = 23  # rows


@pytest.mark.parametrize("sizes", [[1] * 11 + [3, 3, 1, 5], [2, 1] * 7 + [2]])
@pytest.mark.parametrize("bits", [None, 4])
@pytest.mark.parametrize("name", ["linear", "linear of sequences", "Conv1D of sequences", "matmul"])
def test_many_adapters_are_added_together_as_exactly(name: str, bits: int | None, sizes: list[int]) -> None:
    kinds = {f"r{rank}": zoo.LoRA(rank=1 + rank % 5, targets="all") for rank in range(12)}
    model = adapted(MODULES[name][0](), bits and zoo.Quantization(bits, mixed=False), **kinds)
    x = torch.cat([MODULES[name][1]() for _ in range(3)])[:MANY]
    numbers = torch.randperm(MANY).tolist()
    some = [{f"r{number}": 1.0} for number in range(12)] + [{}, {"r1": 0.5, "r2": 2.0}, {"r1": -1.0}]
    rows = [sorted(numbers[sum(sizes[:at]) :][:size]) for at, size in enumerate(sizes)]
    groups = [(views(model, choice), own) for choice, own in zip(some, rows, strict=True)]
    banks = Banks()
    found = []
    for _ in range(2):
        for order in (groups, groups[::-1]):  # the bank is of other batches too
            same = row_views(order, flattened=True, banks=banks)
            with torch.no_grad(), choosing(same):
                found += [model.module(x), model.module(x)]
            assert len(found) < 3 or all(len(one.stack.left) >= 10 for one in same.values())
    model.module.double()
    exact = torch.zeros_like(found[0], dtype=torch.float64)
    for choice, (_, own) in zip(some, groups, strict=True):
        with torch.no_grad(), choosing(views(model, choice)):
            exact[own] = model.module(x[own].double())
    assert all(error(one, exact) < 1e-6 for one in found)


def test_copies_of_updates_follow_them() -> None:
    model = adapted(nn.Linear(64, 48))
    x = torch.randn(6, 64)
    groups = [(views(model, choice), [2 * at, 2 * at + 1]) for at, choice in enumerate(({"a": 1}, {"b": 1}, {"c": 1}))]
    same = row_views(groups)
    (weight,) = (one for one in same.values() if len(one.shape) == 2)

    def fused() -> Tensor:
        with torch.no_grad(), choosing(same):
            return model.module(x)

    def apart() -> Tensor:
        return separately(model, x, ([0, 1], [], [2, 3], [], [4, 5]))

    first = fused(), fused()
    assert isinstance(weight.stack, Stack)
    assert max(error(one, apart()) for one in first) < 1e-6
    update = next(iter(managed_weights(model.module).values())).updates["b"]
    with torch.no_grad():
        update.A.mul_(3)
    assert error(fused(), apart()) < 1e-6
    update.scale *= 2  # type: ignore[operator]
    assert error(fused(), apart()) < 1e-6
    update.A = nn.Parameter(torch.randn_like(update.A))
    assert error(fused(), apart()) < 1e-6
    assert error(first[0], apart()) > 1e-2
    model.module.double()
    x = x.double()
    assert error(fused(), apart()) < 1e-12


def test_copies_are_bounded() -> None:
    room = Room(3000)
    model = adapted(nn.Linear(64, 48), **{name: zoo.LoRA(rank=4, targets="all") for name in "defg"})
    managed = next(iter(managed_weights(model.module).values()))
    bank = Bank(room)
    for _ in range(2):
        known = bank.numbers([managed.view((name,)) for name in "ab"], torch.float32, torch.device("cpu"))
    assert known == [None, None]  # other views each time
    several = [managed.view((name,)) for name in "abcdefg"]
    for _ in range(2):
        known = bank.numbers(several, torch.float32, torch.device("cpu"))
    assert known == [None] * 7  # 4 × (64 + 48) × 4 bytes for each of four at first
    room.left = 1 << 15
    bank = Bank(room)
    for _ in range(2):
        known = bank.numbers(several, torch.float32, torch.device("cpu"))
    assert known == list(range(7))
    assert room.left == (1 << 15) - bank.left.nbytes - bank.right.nbytes
    bank.numbers(several, torch.float64, torch.device("cpu"))
    assert bank.left.dtype is torch.float64


def noted(method: Callable[..., Any], calls: list[str]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        calls.append(method.__name__)
        return method(*args, **kwargs)

    return call


@pytest.mark.parametrize("kind", [zoo.LoRA(2, targets="all"), zoo.LoRA(2, targets="all", dora=True)])
def test_dense_forms_that_are_kept_serve_rows_under_adapters(monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
    unpacked: list[str] = []
    for name in ("unpack", "product", "rows", "_fused"):
        monkeypatch.setattr(FourBit, name, noted(getattr(FourBit, name), unpacked))
    model = adapted(MODULES["linear"][0](), zoo.Quantization(4, mixed=False), c=kind)
    model.deactivate()
    x = torch.randn(COUNT, 64)
    wanted = separately(model, x)
    single = views(model, {"a": 1.0})
    same = row_views([(views(model, choice), own) for choice, own in zip(CHOICES, ROWS, strict=True)])
    other = row_views([(views(model, {}), [0, 1]), (single, list(range(2, COUNT)))])
    with torch.no_grad(), model.caching("dense"):
        for number in range(4):
            before = len(unpacked)
            with choosing(same):
                found = model.module(x)
            with choosing(other):
                model.module(x)
            with choosing(single):
                alone = model.module(x[:2])
            plain = model.module(x[2:3])  # no adapter is active: the same dense form
            if number > 1:
                assert unpacked[before:] == []
        kept = CHOSEN.get().dense.kept  # type: ignore[union-attr]
        assert len(kept) == 2
        assert error(found, wanted) < 1e-5
        assert error(alone, wanted[:2]) < 1e-5
        assert error(plain, wanted[2:3]) < 1e-5
    with torch.no_grad(), choosing(same):
        model.module(x)
    assert len(unpacked) > before
