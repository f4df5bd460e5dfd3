"""Dense forms kept for a block: what they give, when they are made, what they may take, and when they are outdated."""

from __future__ import annotations

import gc
import math
import threading
import weakref
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zoo
from tests.model.helpers import Net, perturb
from tests.weights.helpers import error
from zoo.weights.codecs import FourBit
from zoo.weights.dense_cache import AUTO, cache_bytes, caching
from zoo.weights.walk import managed_weights

KINDS: dict[str, Any] = {
    "none": None,
    "lora": 4,
    "two": {"a": 4, "b": zoo.LoRA(3, 8)},
    "dora": zoo.LoRA(4, dora=True),
    "loha": zoo.LoHa(3),
    "lokr": zoo.LoKr(3),
    "pissa": zoo.LoRA(4, init="pissa"),
}


def made(bits: Any, kind: str, dtype: torch.dtype = torch.float32) -> zoo.Model:
    model = zoo.wrap(Net().eval().to(dtype), bits=bits, lora=KINDS[kind])
    perturb(model)
    if kind == "two":
        model.activate("a", "b", weights=(1.0, 0.4))
    return model


def draw() -> Tensor:
    return torch.randint(0, 9, (4, 6))


@torch.no_grad()
def runs(model: zoo.Model, ids: Tensor, times: int = 3) -> list[Tensor]:
    return [model(ids) for _ in range(times)]


@torch.no_grad()
def in_float64(model: zoo.Model, ids: Tensor) -> Tensor:
    """Return the module's output from dense weights in float64."""
    net = Net().eval().double()
    dense = {name: tensor.double() for name, tensor in model.state_dict().items()}
    for name, managed in managed_weights(model.module).items():
        dense[name] = managed.dense(torch.float64)
    dense["head.weight"] = dense["embed.weight"]
    net.load_state_dict(dense)
    return net(ids)


@pytest.fixture
def unpacked(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[int, ...]]:
    """Count, by the weight's shape, how often a 4-bit weight is dequantized."""
    counted: Counter[tuple[int, ...]] = Counter()
    unpack = FourBit.unpack

    def counting(self: FourBit, tensors: Any, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        counted[tuple(shape)] += 1
        return unpack(self, tensors, shape, dtype)

    monkeypatch.setattr(FourBit, "unpack", counting)
    return counted


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [32, 8, 4])
def test_kept_weights_give_what_products_give(bits: int, kind: str) -> None:
    model, ids = made(bits, kind), draw()
    expected = in_float64(model, ids)
    with caching(model.module, "dense") as kept:
        found = runs(model, ids)
        assert bool(kept.used) == (bits < 32 or kind != "none")
    assert all(error(one, expected) < 1e-5 for one in [*runs(model, ids, 1), *found])


@pytest.mark.parametrize("kind", KINDS)
def test_in_16_bits_they_are_no_less_accurate(kind: str) -> None:
    model, ids = made(4, kind, torch.bfloat16), draw()
    expected = in_float64(model, ids)
    with caching(model.module, "dense"):
        found = runs(model, ids)[-1]
    assert error(found, expected) < 1.3 * error(runs(model, ids, 1)[0], expected) + 2e-3


def test_a_weight_is_computed_twice_however_often_it_is_used(unpacked: Counter[tuple[int, ...]]) -> None:
    model, ids = zoo.wrap(Net().eval(), bits=zoo.Quantization(4, mixed=False)), draw()
    unpacked.clear()
    with caching(model.module, "auto"):
        runs(model, ids, 9)
    assert unpacked == {(64, 64, 3): 2, (64, 64): 2, (9, 64): 2}
    unpacked.clear()
    runs(model, ids, 9)
    assert unpacked == {(64, 64, 3): 9, (64, 64): 9, (9, 64): 18}


def test_what_runs_once_keeps_nothing() -> None:
    model, ids = made(4, "loha"), draw()
    with caching(model.module, "dense") as kept:
        runs(model, ids, 1)
        assert kept.used == 9 * 64 * 4  # the table, which is the head too


def test_rows_of_a_large_table_do_not_keep_it() -> None:
    model = zoo.wrap(nn.Sequential(nn.Embedding(5000, 64)).eval(), bits=4)
    with caching(model.module, "dense") as kept:
        runs(model, torch.tensor([3, 4999]))
        assert kept.used == 0


@pytest.mark.parametrize("fails", [False, True])
def test_all_is_freed_in_the_end(fails: bool) -> None:
    model, ids = made(4, "lora"), draw()
    views: list[Any] = []
    kept_error = None
    try:
        with caching(model.module, "dense") as kept:
            runs(model, ids)
            views = [weakref.ref(slot.view.base.untyped_storage()) for slot in kept.kept]
            assert len(views) == 3
            if fails:
                raise RuntimeError
    except RuntimeError as caught:
        kept_error = caught  # whose frames hold on to the block's variables
    gc.collect()
    assert kept.used == 0
    assert not any(view() is not None for view in views)
    assert fails == (kept_error is not None)
    assert runs(model, ids, 1)[0].isfinite().all()


class Sizes(nn.Module):
    """A large and a small layer, of which the small one may run more often."""

    def __init__(self, often: int = 1) -> None:
        super().__init__()
        self.large, self.small, self.often = nn.Linear(512, 512), nn.Linear(64, 512), often

    def forward(self, x: Tensor) -> Tensor:
        y = self.large(x)
        for _ in range(self.often):
            y = y + self.small(x[:, :64])
        return y


@pytest.mark.parametrize(("often", "limit", "kept_names"), [
    (1, 512 * 512 * 4, {"small"}),
    (1, 512 * 512 * 4 - 1, {"small"}),
    (1, 512 * 64 * 4 - 1, set()),
    (1, 512 * 576 * 4, {"large", "small"}),
])  # fmt: skip
def test_within_a_limit_those_are_kept_that_save_most(often: int, limit: int, kept_names: set[str]) -> None:
    model = zoo.wrap(Sizes(often).eval(), bits=zoo.Quantization(4, mixed=False))
    names = {id(managed): name.split(".")[0] for name, managed in managed_weights(model.module).items()}
    with caching(model.module, limit) as kept, torch.no_grad():
        for _ in range(6):
            model(torch.randn(2, 512))
            assert kept.used <= limit
        assert {names[id(slot.source)] for slot in kept.kept} == kept_names
        assert kept.used == sum(slot.view.base.nbytes for slot in kept.kept)


def test_changes_in_the_block_are_seen() -> None:
    model, ids = made(4, "two"), draw()
    changes = [
        lambda: model.activate("b"),
        lambda: (model.activate("a"), model.merge("b"))[0],
        lambda: model.unmerge(),
        lambda: perturb(model, 0.3),
        lambda: model.deactivate(),
        lambda: model.module.to(torch.bfloat16),
    ]
    with caching(model.module, "dense"):
        before = runs(model, ids)[-1]
        for change in changes:
            change()
            found = runs(model, ids)[-1]
            alone: list[Tensor] = []
            thread = threading.Thread(target=lambda into=alone: into.extend(runs(model, ids, 1)))
            thread.start()
            thread.join()  # a thread of its own keeps nothing
            assert error(found, alone[0]) < (1e-5 if found.dtype is torch.float32 else 5e-2)
            assert not torch.equal(found, before)
            before = found


def test_other_adapters_of_some_samples_in_the_block() -> None:
    model, ids = made(4, "two"), draw()
    rows = ["a", None, "b", ("a", "b")]
    with torch.no_grad():
        expected = model(ids, adapters=rows)
        with caching(model.module, "dense"):
            runs(model, ids)
            assert error(model(ids, adapters=rows), expected) < 1e-5
            assert error(model(ids), model(ids, adapters=[{"a": 1.0, "b": 0.4}] * 4)) < 1e-5


def test_with_gradients_what_trains_gets_them() -> None:
    model, ids = made(4, "lora"), draw()
    model(ids).square().sum().backward()
    expected = {name: one.grad.clone() for name, one in model.trainable_parameters()}
    model.module.zero_grad()
    with caching(model.module, "dense") as kept:
        runs(model, ids)
        assert kept.used
        model(ids).square().sum().backward()
    for name, one in model.trainable_parameters():
        assert torch.equal(one.grad, expected[name])


def test_dropout_in_training_mode_is_drawn_anew() -> None:
    model, ids = zoo.wrap(Net(), lora=zoo.LoRA(4, dropout=0.5), bits=4), draw()
    perturb(model, 1.0)
    model.module.drop.eval()
    model.train()
    model.module.drop.eval()
    with caching(model.module, "dense"):
        first, *others = runs(model, ids, 4)
    assert all(not torch.equal(first, one) for one in others)


def test_a_compiled_module_keeps_nothing() -> None:
    model = made(4, "none")
    model.module.compile(backend="eager")
    with caching(model.module, "dense") as kept:
        runs(model, draw())
        assert kept.used == 0


def test_what_cache_may_be() -> None:
    assert [cache_bytes(one) for one in (None, "dense", "auto", "2GB", "1.5 GiB", 7)] == [
        0,
        math.inf,
        AUTO,
        2 * 10**9,
        3 << 29,
        7,
    ]
    for wrong in ("all", "", "12", True, 0, -1, 1.5, "0MB", "1e9GB"):
        with pytest.raises(zoo.ZooError, match="expected cache as 'auto'"):
            cache_bytes(wrong)  # type: ignore[arg-type]
