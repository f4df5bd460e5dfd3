"""Products with a managed weight: every form, every scheme, none to two adapters, against float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.weights.layout import Layout

from .helpers import FOLDING, QUANTIZED, SCHEMES, compare, dense_kept, error, folding, managed, saved_by

INNER, OUTER = 20, 12  # W is (OUTER, INNER)

# name → (operation on the weight and inputs, the shapes of the inputs)
Form = tuple[Callable[..., Tensor], tuple[tuple[int, ...], ...]]
FORMS: dict[str, Form] = {
    "linear": (lambda w, x, b: F.linear(x, w, b), ((5, INNER), (OUTER,))),
    "linear, no bias": (lambda w, x: F.linear(x, w), ((5, INNER),)),
    "linear, one vector": (lambda w, x, b: F.linear(x, w, b), ((INNER,), (OUTER,))),
    "linear, batches": (lambda w, x, b: F.linear(x, w, bias=b), ((2, 3, 4, INNER), (OUTER,))),
    "linear, by name": (lambda w, x, b: F.linear(input=x, weight=w, bias=b), ((5, INNER), (OUTER,))),
    "linear, transposed input": (lambda w, x: F.linear(x.mT, w), ((3, INNER, 7),)),
    "linear, expanded input": (lambda w, x: F.linear(x.expand(3, 4, INNER), w), ((4, INNER),)),
    "addmm": (lambda w, x, b: torch.addmm(b, x, w), ((5, OUTER), (INNER,))),
    "addmm, by name": (lambda w, x, b: torch.addmm(b, mat1=x, mat2=w), ((5, OUTER), (INNER,))),
    "addmm, a method": (lambda w, x, b: b.addmm(x, w), ((5, OUTER), (INNER,))),
    "addmm, full bias": (lambda w, x, b: torch.addmm(b, x, w), ((5, OUTER), (5, INNER))),
    "addmm, column bias": (lambda w, x, b: torch.addmm(b, x, w), ((5, OUTER), (5, 1))),
    "addmm, alpha": (lambda w, x, b: torch.addmm(b, x, w, alpha=-0.3), ((5, OUTER), (INNER,))),
    "addmm, beta": (lambda w, x, b: torch.addmm(b, x, w, beta=1.7), ((5, OUTER), (INNER,))),
    "addmm, both": (lambda w, x, b: torch.addmm(b, x, w, beta=0.4, alpha=2), ((5, OUTER), (5, INNER))),
    "addmm, weight first": (lambda w, x, b: torch.addmm(b, w, x, beta=0.4, alpha=2), ((INNER, 5), (5,))),
    "addmm, weight added": (lambda w, x, y: torch.addmm(w, x, y), ((OUTER, 3), (3, INNER))),
    "mm": (lambda w, x: torch.mm(x, w), ((5, OUTER),)),
    "mm, a method": (lambda w, x: x.mm(w), ((5, OUTER),)),
    "mm, weight first": (lambda w, x: torch.mm(w, x), ((INNER, 5),)),
    "mm, weight's method": (lambda w, x: w.mm(x), ((INNER, 5),)),
    "mv": (lambda w, x: torch.mv(w, x), ((INNER,),)),
    "matmul": (lambda w, x: torch.matmul(x, w), ((5, OUTER),)),
    "matmul, by name": (lambda w, x: torch.matmul(x, other=w), ((5, OUTER),)),
    "matmul, one vector": (lambda w, x: torch.matmul(x, w), ((OUTER,),)),
    "matmul, batches": (lambda w, x: torch.matmul(x, w), ((2, 3, 4, OUTER),)),
    "matmul, weight first": (lambda w, x: torch.matmul(w, x), ((INNER, 5),)),
    "matmul, weight first, one vector": (lambda w, x: torch.matmul(w, x), ((INNER,),)),
    "matmul, weight first, batches": (lambda w, x: torch.matmul(w, x), ((2, 3, INNER, 5),)),
    "matmul, viewed": (lambda w, x: torch.matmul(w, x).view(-1), ((2, INNER, 5),)),
    "x @ w": (lambda w, x: x @ w, ((2, 5, OUTER),)),
    "w @ x": (lambda w, x: w @ x, ((2, INNER, 5),)),
    "x @ w.T": (lambda w, x: x @ w.T, ((2, 5, INNER),)),
    "w.t() @ x": (lambda w, x: w.t() @ x, ((OUTER, 5),)),
    "w @ w.T": (lambda w, x: (w @ w.T) @ x, ((OUTER, 5),)),
    "F.linear(w, x)": (lambda w, x: F.linear(w, x), ((7, INNER),)),
    "tensordot": (lambda w, x: torch.tensordot(x, w, dims=([1, 2], [1, 0])), ((3, INNER, OUTER),)),
    "tensordot, one": (lambda w, x: torch.tensordot(w, x, dims=1), ((INNER, 5),)),
    "einsum": (lambda w, x: torch.einsum("bi,oi->bo", x, w), ((5, INNER),)),
    "einsum, a list": (lambda w, x: torch.einsum("oi,bi->bo", [w, x]), ((5, INNER),)),
    "einsum, twice": (lambda w, x: torch.einsum("bi,oi,oj->bj", x, w, w), ((5, INNER),)),
}

BATCH = 4  # a weight of (BATCH, OUTER, INNER)
THREE: dict[str, Form] = {
    "bmm": (lambda w, x: torch.bmm(x, w), ((BATCH, 5, OUTER),)),
    "bmm, weight first": (lambda w, x: torch.bmm(w, x), ((BATCH, INNER, 5),)),
    "bmm, a method": (lambda w, x: x.bmm(w), ((BATCH, 5, OUTER),)),
    "baddbmm": (lambda w, x, b: torch.baddbmm(b, x, w), ((BATCH, 5, OUTER), (BATCH, 1, INNER))),
    "matmul": (lambda w, x: x @ w, ((BATCH, 5, OUTER),)),
    "matmul, broadcast": (lambda w, x: torch.matmul(x, w), ((2, 1, 5, OUTER),)),
    "matmul, weight first": (lambda w, x: w @ x, ((2, BATCH, INNER, 5),)),
    "matmul, vector": (lambda w, x: w @ x, ((INNER,),)),
    "einsum": (lambda w, x: torch.einsum("nhi,hoi->nho", x, w), ((5, BATCH, INNER),)),
    "bilinear": (lambda w, x, y, b: F.bilinear(x, y, w, b), ((5, OUTER), (5, INNER), (BATCH,))),
    "tensordot": (lambda w, x: torch.tensordot(w, x, dims=2), ((OUTER, INNER),)),
    "a product by elements": (lambda w, x: (w * x).sum(-1), ((5, 1, 1, INNER),)),
}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("form", FORMS)
def test_products(form: str, scheme: str) -> None:
    op, shapes = FORMS[form]
    for adapters in (0, 1, 2):
        for fold in FOLDING:
            with folding(fold):
                layout = Layout(transposed=adapters == 2)
                weight = managed((OUTER, INNER), scheme, adapters, layout=layout)
                compare(op, weight, *(torch.randn(shape) for shape in shapes))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("form", THREE)
def test_products_of_three_dimensions(form: str, scheme: str) -> None:
    op, shapes = THREE[form]
    for adapters, split in ((0, 1), (1, 1), (2, 1), (2, 2)):
        weight = managed((BATCH, OUTER, INNER), scheme, adapters, layout=Layout(split=split))
        compare(op, weight, *(torch.randn(shape) for shape in shapes))


@pytest.mark.parametrize("shape", [(0, INNER), (3, 0, INNER)])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_rows_of_input(scheme: str, shape: tuple[int, ...]) -> None:
    for fold in FOLDING:
        with folding(fold):
            weight = managed((OUTER, INNER), scheme, 1)
            x, bias = torch.randn(shape, requires_grad=True), torch.randn(OUTER, requires_grad=True)
            y = F.linear(x, weight, bias)  # type: ignore[arg-type]
            assert y.shape == (*shape[:-1], OUTER)
            y.sum().backward()
            update = weight._zoo_store.active_updates()[0]
            for one in (x, bias, update.A, update.B):
                assert one.grad is not None
                assert not one.grad.any()


@pytest.mark.parametrize("form", ["linear", "addmm", "mm", "matmul, weight first"])
def test_a_base_that_trains(form: str) -> None:
    op, shapes = FORMS[form]
    for adapters in (0, 1):
        for fold in FOLDING:
            with folding(fold):
                weight = managed((OUTER, INNER), "plain", adapters, train_base=True)
                compare(op, weight, *(torch.randn(shape) for shape in shapes))


def test_sizes_decide_and_both_are_right() -> None:
    # Unpatched: few positions are not folded into the weight, many are.
    for positions in (1, 4, 300):
        for scheme in ("plain", "nf4"):
            weight = managed((OUTER, INNER), scheme, 1)
            compare(FORMS["linear"][0], weight, torch.randn(positions, INNER), torch.randn(OUTER))


@pytest.mark.parametrize("which", ["x", "bias", "A", "B"])
def test_one_gradient_alone(which: str) -> None:
    for fold in FOLDING:
        with folding(fold):
            weight = managed((OUTER, INNER), "nf4", 1)
            update = weight._zoo_store.active_updates()[0]
            x, bias = torch.randn(5, INNER), torch.randn(OUTER)
            g = torch.randn(5, OUTER)
            leaves = {"x": x, "bias": bias, "A": update.A, "B": update.B}
            for one in leaves.values():
                one.requires_grad_()
            full = torch.autograd.grad(F.linear(x, weight, bias), list(leaves.values()), g)  # type: ignore[arg-type]
            expected = dict(zip(leaves, full, strict=True))[which]
            for name, one in leaves.items():
                one.requires_grad_(name == which)
            (found,) = torch.autograd.grad(F.linear(x, weight, bias), [leaves[which]], g)  # type: ignore[arg-type]
            torch.testing.assert_close(found, expected)


def test_wrong_calls_are_the_librarys_own_errors() -> None:
    weight, plain = managed((OUTER, INNER), "nf4", 1), torch.randn(OUTER, INNER)
    for call in (
        lambda w: F.linear(torch.randn(5, INNER + 1), w),
        lambda w: F.linear(torch.randn(5, INNER).double(), w),
        lambda w: F.linear(torch.tensor(1.0), w),
        lambda w: torch.mm(torch.randn(OUTER), w),
        lambda w: torch.mm(torch.randn(2, 5, OUTER), w),
        lambda w: torch.mm(w, torch.randn(2, INNER, 5)),
        lambda w: torch.addmm(torch.randn(3), torch.randn(5, OUTER), w),
        lambda w: torch.addmm(torch.randn(INNER), torch.randn(2, 5, OUTER), w),
        lambda w: torch.matmul(torch.randn(5, INNER), w),
    ):
        with pytest.raises(RuntimeError):
            call(plain)
        with pytest.raises(RuntimeError):
            call(weight)


NOT_KEPT = ["linear", "linear, batches", "addmm", "addmm, both", "addmm, weight first", "mm", "matmul",
            "matmul, weight first, batches", "w @ x", "einsum", "einsum, twice", "tensordot"]  # fmt: skip


@pytest.mark.parametrize("scheme", QUANTIZED)
def test_nothing_dense_is_kept(scheme: str) -> None:
    for fold in FOLDING:
        for adapters in (0, 1, 2):
            with folding(fold):
                for form in NOT_KEPT:
                    op, shapes = FORMS[form]
                    weight = managed((OUTER, INNER), scheme, adapters)
                    inputs = [torch.randn(shape, requires_grad=True) for shape in shapes]
                    kept, made = dense_kept(lambda: op(weight, *inputs), weight)  # noqa: B023
                    assert made, "no dense weight was seen at all: the test checks nothing"
                    assert not kept, (form, kept)
                for form in ("bmm", "bmm, weight first", "matmul, broadcast", "einsum", "bilinear"):
                    op, shapes = THREE[form]
                    weight = managed((BATCH, OUTER, INNER), scheme, adapters)
                    inputs = [torch.randn(shape, requires_grad=True) for shape in shapes]
                    kept, made = dense_kept(lambda: op(weight, *inputs), weight)  # noqa: B023
                    assert made
                    assert not kept, (form, kept)


def test_what_is_kept_is_seen() -> None:
    # The probe works: a plain product with a dense copy keeps it.
    weight = managed((OUTER, INNER), "nf4", 1)
    x = torch.randn(5, INNER, requires_grad=True)
    kept, _ = dense_kept(lambda: F.linear(x, weight.dense()), weight)
    assert kept


@pytest.mark.parametrize("scheme", ["plain", "nf4"])
def test_x_is_kept_only_for_what_trains(scheme: str) -> None:
    for adapters in (0, 1):
        weight = managed((OUTER, INNER), scheme, adapters)
        x = torch.randn(5, INNER, requires_grad=True)
        saved = saved_by(lambda: F.linear(x, weight, torch.randn(OUTER)))  # type: ignore[arg-type]  # noqa: B023
        assert any(one.data_ptr() == x.data_ptr() for one in saved) == bool(adapters)


def test_a_detached_weight_gives_no_gradient_to_its_adapters() -> None:
    weight = managed((OUTER, INNER), "nf4", 1)
    x = torch.randn(5, INNER, requires_grad=True)
    for detached in (weight.data, weight.detach()):
        for y in (F.linear(x, detached), x @ detached.T, detached @ x.T, torch.einsum("bi,oi->bo", x, detached)):
            grads = torch.autograd.grad(
                y.sum(), [x, *weight._zoo_store.active_updates()[0].parameters()], allow_unused=True
            )
            assert grads[0] is not None
            assert grads[1:] == (None, None)


def test_dropout_in_a_recomputed_product_is_the_same_both_times() -> None:
    # y is linear in B: Σ B · ∂L/∂B is the update's share of L, if the backward pass uses the forward pass's mask.
    weight = managed((BATCH, OUTER, INNER), "plain", 1, dropout=0.5)
    update = weight._zoo_store.active_updates()[0]
    x = torch.randn(BATCH, 5, OUTER)
    y = torch.bmm(x, weight)  # type: ignore[arg-type]
    share = (y - torch.bmm(x, weight._zoo_store.base_tensor())).sum()
    (grad,) = torch.autograd.grad(y.sum(), [update.B])
    assert error((grad * update.B).sum(), share) < 1e-4
