"""gradcheck and gradgradcheck of every path in float64, and double backward through quantized weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.weights.layout import Layout
from zoo.weights.lazy_weight import LazyWeight

from .helpers import FOLDING, error, folding, managed, reference, trained

# name → (operation, the weight's shape, the inputs' shapes)
Case = tuple[Callable[..., Tensor], tuple[int, ...], tuple[tuple[int, ...], ...]]
CASES: dict[str, Case] = {
    "linear": (lambda w, x, b: F.linear(x, w, b), (3, 4), ((2, 4), (3,))),
    "addmm": (lambda w, x, b: torch.addmm(b, x, w), (4, 3), ((2, 4), (3,))),
    "addmm, both factors": (lambda w, x, b: torch.addmm(b, x, w, beta=2, alpha=3), (4, 3), ((2, 4), (2, 3))),
    "w @ x": (lambda w, x: w @ x, (3, 4), ((2, 4, 2),)),
    "bmm": (lambda w, x: torch.bmm(x, w), (2, 3, 4), ((2, 2, 3),)),
    "einsum": (lambda w, x: torch.einsum("bi,oi->bo", x, w), (3, 4), ((2, 4),)),
    "bilinear": (lambda w, x, y: F.bilinear(x, y, w), (2, 3, 4), ((2, 3), (2, 4))),
    "conv1d": (lambda w, x, b: F.conv1d(x, w, b, stride=2, padding=1), (3, 2, 3), ((2, 2, 5), (3,))),
    "conv2d": (lambda w, x, b: F.conv2d(x, w, b, 2, 1, 1, 2), (4, 1, 2, 2), ((1, 2, 4, 3), (4,))),
    "conv2d, dilated": (lambda w, x: F.conv2d(x, w, dilation=2, padding="same"), (2, 2, 3, 2), ((1, 2, 3, 3),)),
    "conv3d": (lambda w, x: F.conv3d(x, w), (2, 1, 2, 2, 1), ((1, 1, 3, 2, 2),)),
    "conv_transpose1d": (lambda w, x: F.conv_transpose1d(x, w, stride=2, output_padding=1), (2, 3, 3), ((1, 2, 3),)),
    "conv_transpose2d": (
        lambda w, x, b: F.conv_transpose2d(x, w, b, 2, 1, 1, 2),
        (2, 2, 3, 2),
        ((1, 2, 2, 3), (4,)),
    ),
    "modulated": (lambda w, x, s: F.conv2d(x, w * s[:, None, None]), (3, 2, 2, 2), ((1, 2, 3, 3), (2,))),
}


def in_float64(name: str, adapters: int) -> tuple[Callable[..., Tensor], list[Tensor]]:
    """Return a function of inputs and factors alone, and random values for them."""
    op, shape, inputs = CASES[name]
    weight = managed(shape, "plain", adapters, dtype=torch.float64, rank=1, layout=Layout(transposed=adapters == 2))
    factors = trained(weight._zoo_store)
    for factor in factors:
        assert factor.dtype == torch.float64
    leaves = [torch.randn(one, dtype=torch.float64, requires_grad=True) for one in inputs]

    def function(*values: Tensor) -> Tensor:
        return op(weight, *values[: len(leaves)])

    return function, [*leaves, *factors]


@pytest.mark.parametrize("name", CASES)
def test_gradcheck_and_gradgradcheck(name: str) -> None:
    for adapters, fold in ((0, True), (1, True), (1, False), (2, True), (2, False)):
        with folding(fold):
            function, values = in_float64(name, adapters)
            assert torch.autograd.gradcheck(function, values, fast_mode=adapters == 2)
            assert torch.autograd.gradgradcheck(function, values, fast_mode=True)


def test_gradcheck_of_embeddings() -> None:
    weight = managed((5, 3), "plain", 2, dtype=torch.float64, rank=1, layout=Layout(transposed=True))
    index = torch.tensor([[0, 2, 2], [4, 1, 3]])
    for options in ({}, {"scale_grad_by_freq": False}):
        factors = trained(weight._zoo_store)

        def function(*values: Tensor) -> Tensor:
            return torch.tanh(F.embedding(index, weight, **options))  # type: ignore[arg-type]  # noqa: B023

        assert torch.autograd.gradcheck(function, factors)
        assert torch.autograd.gradgradcheck(function, factors)


def penalty(op: Callable[..., Tensor], weight: Any, x: Tensor, *others: Tensor) -> Tensor:
    """R1 (arXiv 1801.04406): ‖∇x D(x)‖² for D = Σ softplus(op(x))."""
    scores = F.softplus(op(weight, x, *others)).sum()
    (gradient,) = torch.autograd.grad(scores, [x], create_graph=True)
    return gradient.square().sum() + scores


@pytest.mark.parametrize("scheme", ["plain", "nf4", "int8", "bf16"])
@pytest.mark.parametrize("name", CASES)
def test_gradient_penalties_through_quantized_weights(name: str, scheme: str) -> None:
    op, shape, inputs = CASES[name]
    for adapters in (1, 2):
        for fold in FOLDING:
            with folding(fold):
                weight: LazyWeight = managed(shape, scheme, adapters, rank=2)
                store = weight._zoo_store
                mine = [torch.randn(one, requires_grad=True) for one in inputs]
                theirs = [one.detach().double().requires_grad_() for one in mine]
                dense, leaves = reference(store)
                found = penalty(op, weight, *mine)
                expected = penalty(op, dense, *theirs)
                assert error(found, expected) < 1e-5
                grads = torch.autograd.grad(found, [*mine, *trained(store)])
                right = torch.autograd.grad(expected, [*theirs, *leaves])
                for one, other in zip(grads, right, strict=True):
                    assert error(one, other) < 4e-5  # rounding in float32: some draws cancel


@pytest.mark.parametrize("name", ["linear", "conv2d", "conv_transpose2d", "einsum"])
def test_gradient_penalties_with_nothing_to_train_in_the_weight(name: str) -> None:
    # Only x takes the penalty's gradient: the second backward pass runs without a saved x.
    op, shape, inputs = CASES[name]
    weight = managed(shape, "nf4", 0)
    mine = [torch.randn(one, requires_grad=True) for one in inputs]
    theirs = [one.detach().double().requires_grad_() for one in mine]
    found = penalty(op, weight, *mine)
    expected = penalty(op, reference(weight._zoo_store).weight, *theirs)
    for one, other in zip(torch.autograd.grad(found, mine), torch.autograd.grad(expected, theirs), strict=True):
        assert error(one, other) < 1e-5


@pytest.mark.parametrize("scheme", ["plain", "nf4"])
def test_path_length_through_a_small_generator(scheme: str) -> None:
    # StyleGAN2's regulariser (arXiv 1912.04958): the norm of Jᵀy, over several managed weights in a row.
    mapping = managed((6, 5), scheme, 1)
    style = managed((4, 6), scheme, 1)
    kernel = managed((3, 4, 3, 3), scheme, 1)
    up = managed((3, 2, 2, 2), scheme, 1)
    weights = [mapping, style, kernel, up]
    const, z, y = torch.randn(4, 5, 5), torch.randn(2, 5), torch.randn(2, 2, 10, 10)

    def lengths(ws: list[Any], z: Tensor, const: Tensor, y: Tensor) -> Tensor:
        latent = torch.tanh(F.linear(z, ws[0]))
        s = F.linear(latent, ws[1]) + 1
        modulated = ws[2] * s[:, None, :, None, None]
        modulated = modulated * (modulated.square().sum([2, 3, 4], keepdim=True) + 1e-8).rsqrt()
        x = const.expand(1, 2, 4, 5, 5).reshape(1, 8, 5, 5)
        image = F.conv2d(x, modulated.reshape(6, 4, 3, 3), padding=1, groups=2).view(2, 3, 5, 5)
        image = F.conv_transpose2d(torch.tanh(image), ws[3], stride=2)
        (gradient,) = torch.autograd.grad((image * y).sum(), [latent], create_graph=True)
        return (gradient.square().sum(1).sqrt() - 0.3).square().mean()

    references = [reference(weight._zoo_store) for weight in weights]
    found = lengths(weights, z, const, y)
    expected = lengths([one.weight for one in references], z.double(), const.double(), y.double())
    assert error(found, expected) < 1e-5
    mine = [one for weight in weights for one in trained(weight._zoo_store)]
    theirs = [leaf for one in references for leaf in one.leaves]
    right = torch.autograd.grad(expected, theirs, allow_unused=True)
    for one, other in zip(torch.autograd.grad(found, mine, allow_unused=True), right, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert error(one, other) < 3e-5
