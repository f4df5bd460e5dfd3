"""Run by `test_triton.py` in a process of its own: on a CPU with TRITON_INTERPRET=1, else on CUDA.

Every kernel against float64 with fresh random numbers, and the errors of its operator. pytest does not find this file
by its name, because triton reads TRITON_INTERPRET when it is imported.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import zoo
from zoo.errors import WeightError
from zoo.weights.codecs import pack
from zoo.weights.kernels import dynamic_map, four_bit_levels
from zoo.weights.quantized_tensor import QuantizedTensor
from zoo.weights.triton.paths import interpreting, kernel_path

DEVICE = torch.device("cpu" if interpreting() else "cuda", None if interpreting() else 0)
FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
# Relative to the result's norm: of a float32 sum; of a rounding of the result and of each unpacked value. The
# interpreter cuts bfloat16 off where a card rounds it.
LARGEST = {FP32: 2e-6, BF16: 9e-3, FP16: 7e-4}
ops = torch.ops.zoo


@pytest.fixture(autouse=True, scope="module")
def _in_force() -> None:
    assert kernel_path(DEVICE).name == "triton", kernel_path(DEVICE)


def stored(shape: tuple[int, ...], scheme: str = "nf4", block: int = 64, double: bool = True) -> QuantizedTensor:
    weight = torch.randn(shape) * (0.5 + torch.rand(shape[0], *[1] * (len(shape) - 1)))
    if scheme == "int8":
        return pack(weight, zoo.Quantization(bits=8, scheme=scheme)).to(DEVICE)
    return pack(weight, zoo.Quantization(bits=4, scheme=scheme, block_size=block, double=double)).to(DEVICE)


def four_bit(weight: QuantizedTensor) -> tuple[Tensor | None, ...]:
    tensors, levels = weight.tensors(), four_bit_levels(weight.codec.scheme, DEVICE)
    return (*tensors, dynamic_map(DEVICE), levels) if len(tensors) == 4 else (*tensors, None, None, None, levels)


def error(got: Tensor, expected: Tensor) -> float:
    assert got.shape == expected.shape
    return float((got.double() - expected).norm() / expected.norm().clamp(min=1e-30))


def drawn(*shape: int, dtype: torch.dtype = FP32) -> Tensor:
    return torch.randn(shape, device=DEVICE).to(dtype)


Rest = tuple[Tensor | None, Tensor | None, Tensor | None, float]


def product_of(
    weight: QuantizedTensor, m: int, flip: bool, dtype: torch.dtype, rank: int
) -> tuple[Tensor, Rest, Tensor]:
    """Return x, (bias, hidden, up, scale), and the result in float64. Without an update there is no bias either."""
    inputs, outputs = weight.shape if flip else reversed(weight.shape)
    x = drawn(m, inputs, dtype=dtype)
    dense = weight(FP32).double()
    expected = x.double() @ (dense if flip else dense.t())
    if not rank:
        return x, (None, None, None, 1.0), expected
    bias, hidden = drawn(outputs, dtype=dtype), drawn(m, rank, dtype=dtype)
    # As they come: B of a linear layer is (outputs, rank) and arrives transposed, A of a transposed one does not.
    up = drawn(rank, outputs, dtype=dtype) if flip else drawn(outputs, rank, dtype=dtype).t()
    return x, (bias, hidden, up, -0.7), expected + bias.double() - 0.7 * hidden.double() @ up.double()


slow = pytest.mark.slow
# One row, a few, more than a tile; sizes that no tile divides; blocks that go on in the next row (columns % block);
# more than 256 blocks, so that second scales differ (65 · 640 / 64).
PRODUCTS = [
    (1, 24, 128, "nf4", 64, True, BF16, 4),
    (2, 19, 70, "fp4", 64, True, FP32, 0),
    (5, 37, 98, "nf4", 64, True, FP32, 3),
    (17, 34, 128, "fp4", 128, False, FP16, 19),
    pytest.param(1, 65, 640, "nf4", 64, True, FP32, 0, marks=slow),
    pytest.param(2, 9, 4096, "nf4", 4096, False, FP16, 1, marks=slow),
    pytest.param(16, 65, 640, "nf4", 64, True, BF16, 8, marks=slow),
    pytest.param(70, 130, 64, "nf4", 256, True, FP32, 16, marks=slow),
    pytest.param(33, 65, 192, "fp4", 64, True, BF16, 5, marks=slow),
]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("m", "rows", "columns", "scheme", "block", "double", "dtype", "rank"), PRODUCTS)
def test_four_bit_product(
    m: int, rows: int, columns: int, scheme: str, block: int, double: bool, dtype: torch.dtype, rank: int, flip: bool
) -> None:
    weight = stored((rows, columns), scheme, block, double)
    x, rest, expected = product_of(weight, m, flip, dtype, rank)
    y = ops.four_bit_product(x, *four_bit(weight), *rest, rows, columns, block, flip)
    assert y.dtype is dtype
    assert error(y, expected) < LARGEST[dtype]


EIGHT_BIT = [
    (1, 24, 100, FP32, 4),
    (5, 37, 65, BF16, 0),
    (17, 33, 64, FP16, 7),
    pytest.param(2, 70, 1030, BF16, 8, marks=slow),
    pytest.param(40, 65, 130, FP32, 16, marks=slow),
    pytest.param(70, 130, 30, BF16, 2, marks=slow),
]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("m", "rows", "columns", "dtype", "rank"), EIGHT_BIT)
def test_int8_product(m: int, rows: int, columns: int, dtype: torch.dtype, rank: int, flip: bool) -> None:
    weight = stored((rows, columns), "int8")
    x, rest, expected = product_of(weight, m, flip, dtype, rank)
    y = ops.int8_product(x, *weight.tensors(), *rest, flip)
    assert y.dtype is dtype
    assert error(y, expected) < LARGEST[dtype]


UNPACKED = [
    ((7, 33), "nf4", 64, True, False, BF16),
    ((6, 5, 3, 3), "nf4", 64, True, True, FP32),
    ((6, 5, 3, 3), "int8", 0, False, True, BF16),
    ((7, 33), "int8", 0, False, False, FP32),
    pytest.param((64, 64, 3, 3), "nf4", 64, True, False, FP16, marks=slow),
    pytest.param((64, 64, 3, 3), "fp4", 128, False, True, BF16, marks=slow),
    pytest.param((4, 3, 2, 3, 2), "nf4", 64, True, True, FP32, marks=slow),
    pytest.param((40, 1, 3, 3), "nf4", 64, True, True, FP32, marks=slow),
    pytest.param((31, 9, 1, 1), "int8", 0, False, True, FP16, marks=slow),
]


@pytest.mark.parametrize(("shape", "scheme", "block", "double", "last", "dtype"), UNPACKED)
def test_unpacking(
    shape: tuple[int, ...], scheme: str, block: int, double: bool, last: bool, dtype: torch.dtype
) -> None:
    weight = stored(shape, scheme, block, double)
    if scheme == "int8":
        dense = ops.unpack_int8(*weight.tensors(), list(shape), dtype, last)
    else:
        dense = ops.unpack_four_bit(*four_bit(weight), list(shape), block, dtype, last)
    assert dense.dtype is dtype
    order = {4: torch.channels_last, 5: torch.channels_last_3d}[len(shape)] if last else torch.contiguous_format
    assert dense.is_contiguous(memory_format=order)
    assert error(dense, weight(FP32).double()) < {FP32: 1e-7, BF16: 5e-3, FP16: 3e-4}[dtype]


LOW_RANK = [
    (3, 40, 70, 4, FP32),
    (18, 65, 130, 3, BF16),
    pytest.param(70, 200, 66, 33, FP16, marks=slow),
    pytest.param(1030, 64, 70, 16, FP32, marks=slow),
    pytest.param(1, 300, 1100, 8, BF16, marks=slow),
]


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("m", "inputs", "outputs", "rank", "dtype"), LOW_RANK)
def test_low_rank(m: int, inputs: int, outputs: int, rank: int, dtype: torch.dtype, transposed: bool) -> None:
    x, y = drawn(m, inputs, dtype=dtype), drawn(m, outputs, dtype=dtype)
    down, up = drawn(inputs, rank, dtype=dtype), drawn(rank, outputs, dtype=dtype)
    if transposed:
        down, up = down.t().contiguous().t(), up.t().contiguous().t()
    hidden = x.double() @ down.double()
    expected = y.double() + 0.3 * hidden @ up.double()
    through = ops.add_low_rank(y, x, down, up, 0.3)
    assert error(through, hidden) < LARGEST[dtype]
    assert error(y, expected) < LARGEST[dtype]


def test_nothing_to_compute() -> None:
    weight = stored((6, 64))
    y = ops.four_bit_product(drawn(0, 64), *four_bit(weight), None, None, None, 1.0, 6, 64, 64, False)
    assert y.shape == (0, 6)
    eight = stored((6, 64), "int8")
    assert ops.int8_product(drawn(0, 64), *eight.tensors(), None, None, None, 1.0, False).shape == (0, 6)
    assert ops.add_low_rank(drawn(0, 9), drawn(0, 7), drawn(7, 2), drawn(2, 9), 1.0).shape == (0, 2)


def test_what_does_not_fit_is_refused() -> None:
    weight, eight, x = stored((6, 64)), stored((6, 64), "int8"), drawn(3, 64)
    codes = four_bit(weight)

    def product(x: Tensor = x, codes: tuple = codes, rest: tuple = (None, None, None, 1.0), rows: int = 6) -> Tensor:
        return ops.four_bit_product(x, *codes, *rest, rows, 64, 64, False)

    assert product().shape == (3, 6)
    wrong: dict[str, Callable[[], Tensor]] = {
        r"x: expected shape \(rows, 64\)": lambda: product(drawn(3, 63)),
        "x: expected float32, bfloat16 or float16": lambda: product(x.double()),
        "x must be contiguous": lambda: product(drawn(64, 3).t()),
        r"bias: expected shape \(6,\)": lambda: product(rest=(drawn(5), None, None, 1.0)),
        "hidden and up belong together": lambda: product(rest=(None, drawn(3, 2), None, 1.0)),
        r"up: expected shape \(2, 6\)": lambda: product(rest=(None, drawn(3, 2), drawn(2, 5), 1.0)),
        "like x": lambda: product(rest=(None, drawn(3, 2), drawn(2, 6, dtype=BF16), 1.0)),
        "rank up to 128": lambda: product(rest=(None, drawn(3, 129), drawn(129, 6), 1.0)),
        "expected 224 bytes": lambda: product(rows=7),
        "expected uint8": lambda: product(codes=(codes[0].int(), *codes[1:])),
        "second scales": lambda: product(codes=(*codes[:2], drawn(3), *codes[3:])),
        "belong together": lambda: product(codes=(*codes[:2], None, *codes[3:])),
        "int8 matrix": lambda: ops.int8_product(x, drawn(6, 64), eight.tensors()[1], None, None, None, 1.0, False),
        "expected 6 scales": lambda: ops.int8_product(x, eight.tensors()[0], drawn(5), None, None, None, 1.0, False),
        "channels last needs": lambda: ops.unpack_four_bit(*codes, [6, 64], 64, FP32, True),
        "dtype: expected": lambda: ops.unpack_four_bit(*codes, [6, 64], 64, torch.float64, False),
        "down: expected 2 columns": lambda: ops.add_low_rank(drawn(3, 5), x, drawn(64, 3), drawn(2, 5), 1.0),
    }
    for message, call in wrong.items():
        with pytest.raises(WeightError, match=message):
            call()


NAMES = ["four_bit_product", "int8_product", "add_low_rank", "unpack_four_bit", "unpack_int8"]


@pytest.mark.parametrize("name", [pytest.param(name, marks=slow) for name in NAMES])
def test_registered_for_compilation_and_fake_tensors(name: str) -> None:
    weight, eight, x = stored((6, 64)), stored((6, 64), "int8"), drawn(3, 64)
    arguments = {
        "four_bit_product": (x, *four_bit(weight), None, None, None, 1.0, 6, 64, 64, False),
        "int8_product": (x, *eight.tensors(), None, None, None, 1.0, False),
        "add_low_rank": (drawn(3, 6), x, drawn(64, 2), drawn(2, 6), 0.5),
        "unpack_four_bit": (*four_bit(weight), [6, 64], 64, BF16, False),
        "unpack_int8": (*eight.tensors(), [6, 64], BF16, False),
    }
    checks = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(getattr(ops, name).default, arguments[name], test_utils=checks)
