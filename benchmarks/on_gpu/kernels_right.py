"""The Triton kernels against their torch reference, both against float64."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from on_gpu.parts import Row, Setup
from on_gpu.record import failed
from zoo.weights.codecs import pack
from zoo.weights.kernels import dynamic_map, four_bit_levels
from zoo.weights.quantized_tensor import QuantizedTensor
from zoo.weights.scheme import Quantization
from zoo.weights.triton.paths import enabled

SHAPES = ((4096, 4096), (1000, 4098), (14336, 4096), (50257, 768))


def error(got: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference relative to that of the float64 result."""
    return float((got.double() - expected).norm() / expected.norm())


def four_bit(weight: QuantizedTensor, device: torch.device) -> tuple[Tensor, ...]:
    """Return what the operators take of a double-quantized 4-bit weight."""
    return (*weight.tensors(), dynamic_map(device), four_bit_levels(weight.codec.scheme, device))


def rows(setup: Setup) -> Iterator[Row]:
    """Yield the errors of each kernel, orientation and number of rows."""
    device = torch.device(setup.device, 0 if setup.device == "cuda" else None)
    if not enabled(device):
        yield {"kernel": "all", "skipped": "the Triton kernels are not in force"}
        return
    for shape in ((34, 66),) if setup.quick else SHAPES:
        weights = {
            name: pack(torch.randn(shape, device=device), Quantization(bits=bits, scheme=name)).to(device)
            for name, bits in (("nf4", 4), ("fp4", 4), ("int8", 8))
        }
        for name, weight in weights.items():
            for m in (1, 2) if setup.quick else (1, 2, 5, 16, 33, 128):
                for flip in (False, True):
                    row = {"kernel": f"{name} product", "weight": f"{shape[0]} × {shape[1]}", "rows": m, "flip": flip}
                    try:
                        yield {**row, **product(weight, m, flip, device)}
                    except Exception as trouble:
                        yield failed(row, trouble)
    yield from _unpacked(setup, device)


def product(weight: QuantizedTensor, m: int, flip: bool, device: torch.device) -> dict[str, float]:
    """Return the errors of a product with bias and a low-rank update, by the kernel and by torch."""
    outputs, inputs = (weight.shape[1], weight.shape[0]) if flip else weight.shape
    kind = {"device": device, "dtype": torch.bfloat16}
    x, bias = torch.randn(m, inputs, **kind), torch.randn(outputs, **kind)
    hidden, up = torch.randn(m, 8, **kind), torch.randn(outputs, 8, **kind).t()
    exact = weight(torch.float32).double()
    expected = x.double() @ (exact if flip else exact.t()) + bias.double() + 0.5 * hidden.double() @ up.double()
    rest = (bias, hidden, up, 0.5)
    if weight.codec.bits == 8:
        y = torch.ops.zoo.int8_product(x, *weight.tensors(), *rest, flip)
    else:
        y = torch.ops.zoo.four_bit_product(x, *four_bit(weight, device), *rest, *weight.shape, 64, flip)
    dense = weight(torch.bfloat16)
    reference = torch.addmm(x @ (dense if flip else dense.t()) + bias, hidden, up, alpha=0.5)
    return {"error": error(y, expected), "torch": error(reference, expected)}


def _unpacked(setup: Setup, device: torch.device) -> Iterator[Row]:
    shape = (8, 4, 3, 3) if setup.quick else (512, 512, 3, 3)
    weight = pack(torch.randn(shape, device=device), Quantization(bits=4)).to(device)
    for last in (False, True):
        dense = torch.ops.zoo.unpack_four_bit(*four_bit(weight, device), list(shape), 64, torch.bfloat16, last)
        exact = weight(torch.float32).double()
        yield {
            "kernel": "nf4 unpack",
            "weight": " × ".join(map(str, shape)),
            "channels last": last,
            "error": error(dense, exact),
            "torch": error(weight(torch.bfloat16), exact),
        }
