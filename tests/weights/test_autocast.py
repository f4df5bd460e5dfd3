"""Autocast, casts of whole managed weights, and dropout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.weights.layout import Layout
from zoo.weights.lazy_weight import LazyWeight

from .helpers import FOLDING, SCHEMES, compare, error, folding, managed, reference, trained

# name → (operation, the weight's shape, the inputs' shapes); the inputs are as float32 modules have them
CASES: dict[str, tuple[Callable[..., Tensor], tuple[int, ...], tuple[tuple[int, ...], ...]]] = {
    "linear": (lambda w, x, b: F.linear(x, w, b), (12, 20), ((5, 20), (12,))),
    "addmm": (lambda w, x, b: torch.addmm(b, x, w), (12, 20), ((5, 12), (20,))),
    "addmm, both factors": (lambda w, x, b: torch.addmm(b, x, w, alpha=2, beta=3), (12, 20), ((5, 12), (20,))),
    "matmul": (lambda w, x: x @ w, (12, 20), ((2, 5, 12),)),
    "w @ x": (lambda w, x: w @ x, (12, 20), ((20, 5),)),
    "bmm": (lambda w, x: torch.bmm(x, w), (3, 12, 20), ((3, 5, 12),)),
    "einsum": (lambda w, x: torch.einsum("bi,oi->bo", x, w), (12, 20), ((5, 20),)),
    "conv1d": (lambda w, x, b: F.conv1d(x, w, b), (8, 6, 3), ((2, 6, 9), (8,))),
    "conv2d": (lambda w, x, b: F.conv2d(x, w, b, padding=1), (8, 6, 3, 3), ((2, 6, 7, 7), (8,))),
    "conv2d, same": (lambda w, x, b: F.conv2d(x, w, b, padding="same"), (8, 6, 3, 3), ((2, 6, 7, 7), (8,))),
    "conv2d, unbatched": (lambda w, x, b: F.conv2d(x, w, b), (8, 6, 3, 3), ((6, 7, 7), (8,))),
    "conv3d": (lambda w, x, b: F.conv3d(x, w, b), (8, 6, 2, 2, 2), ((2, 6, 4, 4, 4), (8,))),
    "conv_transpose2d": (lambda w, x, b: F.conv_transpose2d(x, w, b, 2), (6, 8, 3, 3), ((2, 6, 5, 5), (8,))),
    "by elements": (lambda w, x: (w * x).sum(-1), (12, 20), ((12, 20),)),
}


@pytest.mark.parametrize("scheme", ["plain", "nf4", "int8", "bf16"])
@pytest.mark.parametrize("name", CASES)
def test_autocast_gives_the_librarys_types(name: str, scheme: str) -> None:
    op, shape, inputs = CASES[name]
    for cast in (torch.bfloat16, torch.float16) if "conv3d" not in name else (torch.bfloat16,):
        for adapters in (0, 1, 2):
            for fold in FOLDING:
                with folding(fold):
                    weight = managed(shape, scheme, adapters)
                    values = [torch.randn(one, requires_grad=True) for one in inputs]
                    dense, leaves = reference(weight._zoo_store)
                    plain = dense.detach().float()
                    with torch.autocast("cpu", dtype=cast):
                        y, expected = op(weight, *values), op(plain, *values)
                        low = op(weight, *(one.detach().to(cast) for one in values))
                    assert y.dtype == expected.dtype
                    assert low.dtype == op_dtype(op, plain, values, cast)
                    exact = op(dense, *(one.detach().double() for one in values))
                    wanted = [*values, *trained(weight._zoo_store)]
                    g = torch.randn_like(exact)
                    grads = torch.autograd.grad(y, wanted, g.to(y.dtype))
                    coarse = 0.03 if cast == torch.bfloat16 else 0.005
                    assert error(y, exact) < coarse
                    assert [one.dtype for one in grads] == [torch.float32] * len(grads)
                    if leaves:
                        right = torch.autograd.grad(exact, leaves, g)
                        for one, other in zip(grads[len(values) :], right, strict=True):
                            assert error(one, other) < coarse


def op_dtype(op: Callable[..., Tensor], plain: Tensor, values: list[Tensor], cast: torch.dtype) -> torch.dtype:
    with torch.autocast("cpu", dtype=cast):
        return op(plain, *(one.detach().to(cast) for one in values)).dtype


@pytest.mark.parametrize("scheme", SCHEMES)
def test_autocast_of_embeddings_is_the_librarys(scheme: str) -> None:
    weight = managed((30, 64), scheme, 1, layout=Layout(transposed=True))

    def forward(w: Any, index: Tensor) -> Tensor:  # the backward pass runs outside, as torch requires
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return F.embedding(index, w)

    compare(forward, weight, torch.randint(30, (2, 3)))  # full precision, and float32


def test_the_dense_weight_is_exact_under_autocast() -> None:
    for scheme in ("plain", "nf4"):
        weight = managed((12, 20), scheme, 2)
        expected = reference(weight._zoo_store).weight
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert error(weight.dense(), expected) < 1e-6
            assert error(weight * 2, 2 * expected) < 1e-6  # type: ignore[operator]


def test_autocast_leaves_float64_alone() -> None:
    weight = managed((12, 20), "plain", 1, dtype=torch.float64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = F.linear(torch.randn(5, 20, dtype=torch.float64), weight)  # type: ignore[arg-type]
    assert y.dtype == torch.float64


@pytest.mark.parametrize("scheme", SCHEMES)
def test_casts_of_a_store(scheme: str) -> None:
    weight = managed((12, 64), scheme, 1)
    store = weight._zoo_store
    packed = store.packed
    before = [one.detach().clone() for one in packed.tensors()] if packed is not None else []
    casts: list[tuple[Callable[[], Any], torch.dtype, float]] = [
        (lambda: store.to(torch.bfloat16), torch.bfloat16, 0.03),
        (store.half, torch.float16, 0.005),
        (store.double, torch.float64, 1e-6),
        (store.float, torch.float32, 1e-5),
    ]
    for cast, dtype, tolerance in casts:
        cast()
        assert store.dtype == weight.dtype == dtype
        if packed is not None:
            for one, other in zip(packed.tensors(), before, strict=True):
                assert one.dtype == other.dtype
                assert torch.equal(one, other)
        x, bias = torch.randn(5, 64).to(dtype), torch.randn(12).to(dtype)
        compare(lambda w, x, b: F.linear(x, w, b), weight, x, bias, tolerance=tolerance)
        compare(lambda w, x: x @ w, weight, torch.randn(5, 12).to(dtype), tolerance=tolerance)
        compare(lambda w, i: F.embedding(i, w), weight, torch.randint(12, (4,)), tolerance=tolerance)


DROPPED: dict[str, tuple[Callable[..., Tensor], tuple[int, ...], tuple[int, ...]]] = {
    "linear": (lambda w, x: F.linear(x, w), (6, 10), (8, 10)),
    "x @ w": (lambda w, x: x @ w, (6, 10), (8, 6)),
    "conv2d": (lambda w, x: F.conv2d(x, w, padding=1), (4, 3, 3, 3), (2, 3, 5, 5)),
    "conv_transpose2d": (lambda w, x: F.conv_transpose2d(x, w, stride=2), (3, 4, 3, 3), (2, 3, 4, 4)),
    "einsum": (lambda w, x: torch.einsum("bi,oi->bo", x, w), (6, 10), (8, 10)),
    "by elements": (lambda w, x: (w * x).sum(-1), (6, 10), (6, 10)),
}


@pytest.mark.parametrize("adapters", [1, 2])
@pytest.mark.parametrize("scheme", ["plain", "nf4"])
@pytest.mark.parametrize("name", DROPPED)
def test_dropout(name: str, scheme: str, adapters: int) -> None:
    op, shape, size = DROPPED[name]
    weight: LazyWeight = managed(shape, scheme, adapters, dropout=0.4)
    store = weight._zoo_store
    x = torch.randn(size)
    store.eval()
    compare(op, weight, x)
    with torch.no_grad():
        still, base = op(weight, x), op(store.base_tensor(), x)
        assert torch.equal(op(weight, x), still)
        store.train()
        draws = torch.stack([op(weight, x) for _ in range(600)])
    assert draws.std(0).max() > 0
    effect = still - base
    # The standard error of the mean is standard deviation / √draws; five of them are allowed.
    allowed = 5 * draws.std(0).max() / 600**0.5
    assert (draws.mean(0) - still).abs().max() < allowed
    assert allowed < effect.abs().max()
    # Gradients use the same mask as the output: y is linear in each B.
    x.requires_grad_()
    y = op(weight, x)
    share = (y - op(store.base_tensor(), x)).sum()
    grads = torch.autograd.grad(y.sum(), [x, *(update.B for update in store.active_updates())])  # type: ignore[attr-defined]
    found = sum((grad * update.B).sum() for grad, update in zip(grads[1:], store.active_updates(), strict=True))  # type: ignore[operator]
    assert abs(found - share) < 1e-4 * (1 + y.abs().sum())
    assert all(grad.any() for grad in grads)


def test_dropout_of_all_but_nothing_leaves_the_base() -> None:
    weight = managed((6, 10), "nf4", 1, dropout=0.999999)
    x = torch.randn(8, 10)
    torch.testing.assert_close(F.linear(x, weight), F.linear(x, weight._zoo_store.base_tensor()))  # type: ignore[arg-type]


def test_a_layer_in_eval_mode_drops_nothing() -> None:
    import zoo

    module = nn.Sequential(nn.Linear(6, 6))
    model = zoo.wrap(module, lora=zoo.LoRA(rank=2, targets=["0"], dropout=0.5))
    nn.init.normal_(module[0].weight._zoo_store.active_updates()[0].B)  # type: ignore[union-attr, operator]
    x = torch.randn(3, 6)
    model.module.eval()
    assert torch.equal(module(x), module(x))
    model.module.train()
    assert not torch.equal(module(x), module(x))
