"""Products without the dense weight: every codec and form against float64, and that no dense weight is made."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.weights import native, products, tiles
from zoo.weights.codecs import pack
from zoo.weights.layout import Layout
from zoo.weights.lazy_weight import LazyWeight
from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.products import Way, choose, tile_rows
from zoo.weights.quantized_tensor import QuantizedTensor
from zoo.weights.scheme import Quantization

from .helpers import SCHEMES, compare, error, folding, managed

CODECS = {
    **{name: how for name, how in SCHEMES.items() if how is not None and how.bits < 16},
    "nf4-256-single": Quantization(4, "nf4", 256, double=False),
    "fp4-2048": Quantization(4, "fp4", 2048),
    "dynamic8-64": Quantization(8, "dynamic8", 64),
    "bf16": Quantization(16),
}
# (rows, columns): whole blocks in a row; not; odd; rows that no tile divides; one row; one column; a wide row
MATRICES = [(96, 64), (70, 96), (131, 51), (129, 128), (1, 640), (640, 1), (3, 4096)]


@contextmanager
def tiled(values: int = 2048) -> Iterator[list[tuple[int, ...]]]:
    """Multiply in tiles of about so many values whatever the weight's size, and yield the shapes of those used."""
    used: list[tuple[int, ...]] = []
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("TILED", 1), ("TILE", values), ("TALL", 1), ("LARGEST", 1 << 16)):
            patch.setattr(products, name, value)
        own = tiles.scratch

        def counted(size: int) -> Tensor:
            used.append((size,))
            return own(size)

        patch.setattr(tiles, "scratch", counted)
        yield used


def weight_of(packed: QuantizedTensor) -> LazyWeight:
    return LazyWeight(ManagedWeight(packed))


@pytest.mark.parametrize("scheme", CODECS)
def test_equal_the_dense_route(scheme: str) -> None:
    taken = 0
    for rows, columns in MATRICES:
        packed = pack(torch.randn(rows, columns), CODECS[scheme])
        dense = packed().double()
        for n in (1, 2, 7):
            for flip in (False, True):
                x, bias = torch.randn(n, rows if flip else columns), torch.randn(columns if flip else rows)
                matrix = dense if flip else dense.t()
                with tiled():
                    y = packed.codec.product(packed.tensors(), packed.shape, x, flip, bias)  # type: ignore[attr-defined]
                if y is None:
                    continue
                taken += 1
                size = x.double().abs() @ matrix.abs() + bias.abs()  # of the terms, which may cancel
                route = F.linear(x, packed().t() if flip else packed(), bias)
                for expected in (x.double() @ matrix + bias, route):
                    assert ((y - expected) / size).abs().max().item() < 1e-6
    # Long blocks in odd rows have no tile that is small enough; a single row is stored as single values in int8.
    assert taken >= {"nf4-4096-single": 24, "fp4-2048": 30, "int8": 36}.get(scheme, 42)


@pytest.mark.parametrize("scheme", CODECS)
def test_every_form_of_product_and_its_gradients(scheme: str) -> None:
    forms: dict[str, tuple[Callable[..., Tensor], tuple[tuple[int, ...], ...]]] = {
        "linear": (lambda w, x, b: F.linear(x, w, b), ((2, 3, 64), (96,))),
        "one vector": (lambda w, x, b: F.linear(x, w, b), ((64,), (96,))),
        "addmm": (lambda w, x, b: torch.addmm(b, x, w), ((5, 96), (64,))),
        "matmul": (lambda w, x: x @ w, ((2, 5, 96),)),
        "w @ x": (lambda w, x: w @ x, ((2, 64, 5),)),
        "transposed input": (lambda w, x: F.linear(x.mT, w), ((2, 64, 3),)),
    }
    made = pack(torch.randn(96, 64), CODECS[scheme])
    for op, shapes in forms.values():
        for adapters in (0, 1, 2):
            weight = managed((96, 64), "nf4", adapters, layout=Layout(transposed=adapters == 2))
            weight._zoo_store.packed = made
            with folding(False), tiled() as used:
                compare(op, weight, *(torch.randn(one) for one in shapes))
            assert used or (made.codec.bits == 4 and made.codec.block_size > 2048)  # type: ignore[attr-defined]


@pytest.mark.parametrize("scheme", ["nf4", "fp4", "int8", "dynamic8"])
def test_sixteen_bit_and_autocast(scheme: str) -> None:
    packed = pack(torch.randn(96, 64), CODECS[scheme])
    weight, dense = weight_of(packed), packed().double()
    for dtype in (torch.bfloat16, torch.float16):
        x = torch.randn(3, 64)
        expected = x.to(dtype).double() @ dense.t()
        with tiled() as used, torch.autocast("cpu", dtype=dtype):
            y = F.linear(x, weight)  # type: ignore[arg-type]
        assert y.dtype is dtype
        assert used
        # Only x and the result are rounded: with the weight rounded too, the error would be larger than one rounding.
        assert error(y, expected.to(dtype)) <= torch.finfo(dtype).eps
        cast = weight_of(pack(torch.randn(96, 64), CODECS[scheme]).to(dtype))
        with tiled() as used:
            found = F.linear(x.to(dtype), cast)  # type: ignore[arg-type]
        assert used
        exact = x.to(dtype).double() @ cast._zoo_store.packed(torch.float32).double().t()
        assert error(found, exact.to(dtype)) <= torch.finfo(dtype).eps


def test_double_backward() -> None:
    packed = pack(torch.randn(96, 64), Quantization(4))
    weight, dense = weight_of(packed), packed().double()
    x = torch.randn(3, 64, requires_grad=True)
    x64 = x.detach().double().requires_grad_()
    results = []
    with tiled():
        for one, w in ((x, weight), (x64, dense)):
            y = F.linear(one, w).square().sum()  # type: ignore[arg-type]
            (first,) = torch.autograd.grad(y, one, create_graph=True)
            results.append(torch.autograd.grad(first.square().sum(), one)[0])
    assert error(results[0], results[1]) < 1e-5


def test_no_dense_weight_is_made_for_a_large_one(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = pack(torch.randn(1024, 256), Quantization(4))
    weight = weight_of(packed)
    whole = packed()
    monkeypatch.setattr(type(packed.codec), "unpack", None)  # calling it would be an error
    x = torch.randn(2, 256, requires_grad=True)
    y = F.linear(x, weight)  # type: ignore[arg-type]
    y.backward(torch.ones_like(y))
    assert error(y, x.detach().double() @ whole.double().t()) < 1e-6
    assert x.grad is not None
    assert error(x.grad, whole.double().sum(0).expand(2, -1)) < 1e-5


def test_the_way_depends_on_sizes() -> None:
    cpu = torch.device("cpu")
    assert choose(cpu, torch.float32, 1, 3072, 768) is Way.TILES
    assert choose(cpu, torch.float32, 1, 64, 64) is Way.DENSE  # one operation is what it costs
    assert choose(cpu, torch.float32, 8192, 3072, 768) is Way.DENSE
    assert choose(cpu, torch.float64, 1, 3072, 768) is Way.DENSE  # tiles are float32
    assert choose(cpu, torch.bfloat16, 64, 3072, 768) is Way.DENSE
    assert choose(torch.device("cuda"), torch.float32, 1, 3072, 768) is Way.DENSE
    assert choose(cpu, torch.float32, 0, 3072, 768) is Way.DENSE
    for columns in (1, 51, 64, 768, 50257, 1 << 22):
        for multiple in (1, 32, 64, 1024):
            step = tile_rows(columns, multiple)
            assert step % multiple == 0
            assert step * columns <= 2 * products.TILE * products.THREADS


def test_a_wrong_width_is_torchs_own_error() -> None:
    weight = weight_of(pack(torch.randn(96, 64), Quantization(4)))
    for flip, width in ((False, 65), (True, 97), (True, 64)):
        with tiled(), pytest.raises(RuntimeError, match="shape"):
            torch.matmul(torch.randn(2, width), weight if flip else weight.t())  # type: ignore[call-overload]
    with tiled(), pytest.raises(RuntimeError, match="same dtype"):
        F.linear(torch.randn(2, 64), weight, torch.randn(96).double())  # type: ignore[arg-type]


class Halves:
    """A stranger's codec with `unpack` alone: a weight stored as its half."""

    scheme, bits = "halves", 32

    def unpack(self, tensors: tuple[Tensor, ...], shape: torch.Size, dtype: torch.dtype) -> Tensor:
        return (2 * tensors[0]).to(dtype).view(shape)


def test_a_codec_without_product_serves_as_before() -> None:
    value = torch.randn(600, 512)
    weight = weight_of(QuantizedTensor(Halves(), value.shape, torch.float32, {"part": value / 2}))
    for adapters in (0, 1):
        if adapters:
            other = managed((600, 512), "nf4", 1)
            other._zoo_store.packed = weight._zoo_store.packed
            weight = other
        compare(lambda w, x, b: F.linear(x, w, b), weight, torch.randn(2, 512), torch.randn(600))


def test_threads_do_not_share_a_tile() -> None:
    packed = [pack(torch.randn(96, 64) * (n + 1), Quantization(4)) for n in range(4)]
    inputs = [torch.randn(3, 64) for _ in packed]
    expected = [x.double() @ one().double().t() for x, one in zip(inputs, packed, strict=True)]
    worst = [0.0] * len(packed)

    def run(number: int) -> None:
        weight = weight_of(packed[number])
        for _ in range(100):
            y = F.linear(inputs[number], weight)  # type: ignore[arg-type]
            worst[number] = max(worst[number], error(y, expected[number]))

    with tiled(512):
        threads = [threading.Thread(target=run, args=(number,)) for number in range(len(packed))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert 0 < max(worst) < 1e-6


def test_memory_of_inference_mode_serves_outside_it() -> None:
    weight = weight_of(pack(torch.randn(96, 64), Quantization(8)))
    tiles._local.__dict__.clear()
    with tiled(), torch.inference_mode():
        F.linear(torch.randn(1, 64), weight)  # type: ignore[arg-type]
    with tiled():
        y = F.linear(torch.randn(1, 64), weight)  # type: ignore[arg-type]
    assert torch.isfinite(y).all()


def test_without_bitsandbytes_functions_the_operators_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [pack(torch.randn(131, 51), CODECS[name]) for name in ("nf4", "fp4", "nf4-256-single", "dynamic8", "int8")]
    x = torch.randn(3, 51)
    fast = [(one(), one(torch.bfloat16), F.linear(x, weight_of(one))) for one in made]  # type: ignore[arg-type]
    assert native.library() is not None
    monkeypatch.setattr(native, "VERSIONS", ("0.0.",))
    monkeypatch.setattr(native, "_library", native.library())  # so that both come back at the end
    monkeypatch.setattr(native, "_looked", False)
    for (dense, half, y), one in zip(fast, made, strict=True):
        assert torch.equal(dense, one())
        assert torch.equal(half, one(torch.bfloat16))
        with tiled():
            assert error(F.linear(x, weight_of(one)), y.double()) < 1e-6  # type: ignore[arg-type]
    assert native.library() is None


@pytest.mark.parametrize("scheme", ["nf4", "int8", "dynamic8"])
def test_nothing_reads_memory_where_a_tensor_is_not_plain(scheme: str) -> None:
    packed = pack(torch.randn(96, 64), CODECS[scheme])
    x, dense = torch.randn(3, 64), packed().double()

    def forward(tensors: dict[str, Tensor], x: Tensor) -> Tensor:
        return F.linear(x, torch.func.functional_call(packed, tensors, ()))

    batches = {name: torch.stack([one, one]) for name, one in packed.named_parameters()}
    with tiled():
        y = torch.func.vmap(forward)(batches, torch.stack([x, -x]))
        assert error(y, torch.stack([x, -x]).double() @ dense.t()) < 1e-6
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True):
        found: Any = F.linear(torch.empty(3, 64), packed())
    assert found.shape == (3, 96)


def test_a_weight_stored_in_the_dtype_of_x_is_not_copied() -> None:
    packed = pack(torch.randn(96, 64).bfloat16(), Quantization(16))
    x = torch.randn(5, 64).bfloat16()
    assert torch.equal(F.linear(x, weight_of(packed)), F.linear(x, packed()))  # type: ignore[arg-type]
