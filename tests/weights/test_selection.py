"""Parts of managed weights along the first dimension: values, gradients, and what is dequantized for them."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import zoo
from zoo.weights import parts
from zoo.weights.layout import Layout
from zoo.weights.lazy_weight import LazyWeight

from .helpers import QUANTIZED, SCHEMES, compare, dense_kept, managed

STACK = Layout(stacked=True)
SHAPES = {"whole blocks": (5, 16, 128), "other sizes": (5, 12, 20), "odd": (3, 5, 7)}

# name → what is computed from a stack (matrices, out, in) and x (4, in)
USES: dict[str, Callable[[LazyWeight, Tensor], Tensor]] = {
    "one matrix": lambda w, x: F.linear(x, w[1]),
    "the last one": lambda w, x: x @ w[-1].T,
    "a number in a tensor": lambda w, x: F.linear(x, w[torch.tensor(2)]),
    "select": lambda w, x: F.linear(x, w.select(0, 2)),
    "a loop": lambda w, x: torch.cat([F.linear(x, one) for one in w]),
    "unbind": lambda w, x: F.linear(x, w.unbind()[0]),
    "a slice": lambda w, x: torch.einsum("bi,eoi->beo", x, w[1:3]),
    "narrow": lambda w, x: torch.einsum("bi,eoi->beo", x, w.narrow(0, 1, 2)),
    "every second": lambda w, x: torch.einsum("bi,eoi->beo", x, w[::2]),
    "rows of one": lambda w, x: F.linear(x, w[1, :3]),
    "columns": lambda w, x: F.linear(x[:, 2:6], w[1, ..., 2:6]),
    "chosen ones": lambda w, x: torch.einsum("bi,eoi->beo", x, w[torch.tensor([2, 0])]),
    "a mask": lambda w, x: torch.einsum("bi,eoi->beo", x, w[torch.arange(len(w)) == 1]),
    "a new dimension": lambda w, x: torch.einsum("bi,neoi->beo", x, w[None]),
    "a chunk": lambda w, x: F.linear(x, w[0]).chunk(2, -1)[1],
}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("use", USES)
def test_a_stack(use: str, size: str, scheme: str) -> None:
    shape = SHAPES[size]
    compare(USES[use], managed(shape, scheme, 2, layout=STACK), torch.randn(4, shape[2]))


@pytest.mark.parametrize("adapters", [0, 1])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("transposed", [False, True])
def test_rows_of_a_fused_projection(transposed: bool, scheme: str, adapters: int) -> None:
    weight = managed((24, 64), scheme, adapters, layout=Layout(transposed=transposed))
    compare(lambda w, x: torch.cat([F.linear(x, w[:8]), x @ w[8:].T], -1), weight, torch.randn(2, 3, 64))


def test_a_vector_and_a_whole_stack_are_as_the_dense_ones() -> None:
    weight = managed((4, 8, 8), "nf4", 1, layout=STACK)
    dense = weight.dense()
    torch.testing.assert_close(weight[1, 2], dense[1, 2])
    torch.testing.assert_close(weight[...], dense)
    torch.testing.assert_close(weight[()], dense)
    with pytest.raises(IndexError):
        weight[4]
    with pytest.raises(RuntimeError):
        weight.narrow(0, 3, 2)


@pytest.mark.parametrize("scheme", QUANTIZED)
def test_only_the_part_is_dequantized(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "RUN", 0)
    weight, x = managed((8, 16, 64), scheme, 1, layout=STACK), torch.randn(4, 64, requires_grad=True)
    kept, whole = dense_kept(lambda: F.linear(x, weight[3]), weight)
    assert (kept, whole) == ([], 0)
    with torch.no_grad():
        codec = weight._zoo_store.quantized_base().codec
        block = SCHEMES[scheme].block_size  # type: ignore[union-attr]
        monkeypatch.setattr(type(codec), "unpack", _of_at_most(type(codec).unpack, max(16 * 64, block)))
        assert weight[3].shape == (16, 64)


def _of_at_most(unpack: Callable[..., Tensor], size: int) -> Callable[..., Tensor]:
    def checked(self: object, tensors: tuple[Tensor, ...], shape: torch.Size, dtype: torch.dtype) -> Tensor:
        assert shape.numel() <= size
        return unpack(self, tensors, shape, dtype)

    return checked


def test_what_is_kept_of_a_stack_follows_its_tensors() -> None:
    weight = managed((4, 8, 64), "int8", 0, layout=STACK)
    packed = weight._zoo_store.quantized_base()
    with torch.no_grad():
        before = weight[1]
        before.zero_()  # the caller's own
        assert weight[1].abs().sum() > 0
        packed.values.mul_(-1)
        torch.testing.assert_close(weight[1], weight.dense()[1])
        packed.values = nn.Parameter(torch.ones_like(packed.values), requires_grad=False)
        torch.testing.assert_close(weight[2], weight.dense()[2])
        torch.testing.assert_close(weight[2].double(), weight.dense()[2].double())
    with torch.inference_mode():
        weight[3]
    x = torch.randn(2, 64, requires_grad=True)
    F.linear(x, weight[3]).sum().backward()
    for _ in range(9):
        other = managed((4, 8, 64), "int8", 0, layout=STACK)
        with torch.no_grad():
            torch.testing.assert_close(other[3], other.dense()[3])
    assert len(parts._recent) <= parts.KEPT


class _Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(4, 16, 64))

    def forward(self, x: Tensor) -> Tensor:
        return sum(F.linear(x, one) for one in self.w)  # type: ignore[return-value]


def test_a_part_that_a_layer_keeps_is_no_weight_of_it() -> None:
    model = zoo.wrap(_Layers(), bits=4, lora=2)
    model.module.last = model.module.w[3]
    assert isinstance(model.module.last, LazyWeight)
    model(torch.randn(2, 64)).sum().backward()
    assert [name for name, *_ in model.weights()] == ["w"]
    copy.deepcopy(model.module)(torch.randn(2, 64))


@pytest.mark.parametrize("lora", [None, 2])
def test_a_compiled_loop_over_a_stack(lora: int | None) -> None:
    model, x = zoo.wrap(_Layers(), bits=4, lora=lora), torch.randn(2, 64)
    compiled = torch.compile(model.module, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x))
    exported = torch.export.export(model.module, (x,)).module()
    torch.testing.assert_close(exported(x), model(x))


def test_each_matrix_of_a_stack_has_its_own_scales() -> None:
    net = _Layers()
    with torch.no_grad():
        net.w[:, 0] *= 1000  # one row would spoil all others if they shared its scale
        before = net.w.detach().clone()
    model = zoo.wrap(net, bits=8)
    for matrix, stored in zip(before, model.state_dict()["w"], strict=True):
        torch.testing.assert_close(stored[1:], matrix[1:], atol=0.02, rtol=0)
