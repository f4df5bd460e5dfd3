"""bitsandbytes' fused kernels: products with a weight in 4 bit of which no dequantized value is ever in memory.

On CUDA they read the weight as it is stored, doubly quantized scales included. On a CPU with AVX-512-BF16 the kernel
multiplies in bf16 and sums in float32, and wants the codes in an order of its own and scales in bf16: a copy, made when
the weight is first used, of 4.25 bit per value. It is dropped with the weight's tensors, and never saved.

The CPU kernel computes x @ W.T for blocks along the rows of W. A weight that its layer multiplies the other way, x @ W
(transformers' `Conv1D`), has its blocks across: the 64 outputs of a block share the scale of each input. So x is
multiplied by the scales instead, once for each block of outputs, and the kernel runs once for each, over bare levels.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.weights.kernels import dynamic_map, kernels
from zoo.weights.native import Library

GROUP = 32  # rows that the CPU kernel takes together


class _Copy(NamedTuple):
    """A weight in the order of the CPU kernel, and the tensors that it was made from.

    Attributes:
        source: The codes as they are stored.
        marks: What identifies the values that were copied.
        codes: uint8 (outputs, inputs / 2), the outputs padded to a multiple of 32.
        scales: bf16 (inputs / block_size, outputs), padded alike; of a flipped weight float32 (outputs / block_size,
            1, inputs).
    """

    source: weakref.ref[Tensor]
    marks: tuple[int, ...]
    codes: Tensor
    scales: Tensor


_copies: dict[tuple[int, bool], _Copy] = {}  # by the id of the source, and whether it is flipped
_ones: dict[int, Tensor] = {}  # bf16 scales of 1, by their number


def cpu_product(
    library: Library,
    scheme: str,
    block: int,
    tensors: tuple[Tensor, ...],
    scales: Callable[[tuple[Tensor, ...]], Tensor],
    shape: torch.Size,
    x: Tensor,
    flip: bool,
) -> Tensor:
    """Return x @ W.T, or with `flip` x @ W, multiplied in bf16 and summed in float32: (n, inputs) → bf16 (n, outputs).

    Args:
        library: Has the kernel.
        scheme: nf4 or fp4.
        block: Values that share a scale; whole blocks make up a row.
        tensors: The stored tensors, the codes first; of a parameter that `keeps_copies`.
        scales: Returns the scales of the stored tensors, float32 (blocks,).
        shape: (rows, columns) of W.
        x: (n, columns), or with `flip` (n, rows), a multiple of 64.
        flip: Which product.
    """
    key, kernel = (id(tensors[0]), flip), library.products[scheme]
    copy = _copies.get(key)
    if copy is None or copy.marks != _marks(tensors):
        copy = _copied(key, tensors, scales(tensors), shape, block)
    (n, inputs), outputs = x.shape, copy.codes.shape[0]
    if not flip:
        x = x.to(torch.bfloat16).contiguous()
        y = torch.empty(n, outputs, dtype=torch.bfloat16, device="cpu")
        addresses = x.data_ptr(), copy.codes.data_ptr(), copy.scales.data_ptr(), y.data_ptr()
        kernel(n, outputs, inputs, *addresses, block, inputs, outputs)
        return y if outputs == shape[0] else y[:, : shape[0]].contiguous()
    scaled = (copy.scales * x).to(torch.bfloat16).contiguous()  # (outputs / block, n, inputs)
    y = torch.empty(n, outputs, dtype=torch.bfloat16, device="cpu")
    run = next(size for size in (1024, 512, 256, 128, 64) if inputs % size == 0)  # inputs that share a scale of 1
    ones = _scales_of_one(inputs // run * block).data_ptr()
    first, codes, result = scaled.data_ptr(), copy.codes.data_ptr(), y.data_ptr()
    for number in range(outputs // block):
        at = first + 2 * number * n * inputs, codes + number * block * inputs // 2
        kernel(n, block, inputs, *at, ones, result + 2 * number * block, run, inputs, outputs)
    return y


def _scales_of_one(number: int) -> Tensor:
    found = _ones.get(number)
    if found is None:
        with torch.inference_mode(False):
            found = _ones[number] = torch.ones(number, dtype=torch.bfloat16, device="cpu")
    return found


def _marks(tensors: tuple[Tensor, ...]) -> tuple[int, ...]:
    """Return what changes if any of the tensors is another one, or is written to, or has its memory replaced."""
    marks: list[int] = []
    for tensor in tensors:
        marks += (id(tensor), tensor._version, tensor.data_ptr())
    return tuple(marks)


@torch.no_grad()
def _copied(key: tuple[int, bool], tensors: tuple[Tensor, ...], scales: Tensor, shape: torch.Size, block: int) -> _Copy:
    """Return the copy of a weight, and keep it for as long as the tensor of its codes lives."""
    (rows, columns), source = shape, tensors[0]
    with torch.inference_mode(False):
        codes, scales = source.detach().view(rows, columns // 2), scales.view(rows, columns // block)
        if key[1]:
            values = torch.stack([codes >> 4, codes & 15], dim=-1).view(rows, columns).t()  # (outputs, inputs)
            codes = (values[:, ::2] << 4) | values[:, 1::2]
            scales = scales.t().contiguous().unsqueeze(1)
        else:
            missing = -rows % GROUP
            codes, scales = F.pad(codes, (0, 0, 0, missing)), F.pad(scales.t(), (0, missing)).to(torch.bfloat16)
        kept = weakref.ref(source, lambda _: _copies.pop(key, None))
        copy = _copies[key] = _Copy(kept, _marks(tensors), in_kernel_order(codes), scales.contiguous())
    return copy


def in_kernel_order(codes: Tensor) -> Tensor:
    """Return codes in the order of bitsandbytes' CPU kernel, as its `_convert_weight_packed_for_cpu` does.

    Of each two columns of 32 rows the 64 codes are together, 32 bytes: those of the first 16 rows are the lower halves,
    those of the others the upper ones.

    Args:
        codes: uint8 (rows, columns / 2), of which 32 divides the rows; the upper half of a byte is the first code.

    Returns:
        uint8 (rows, columns / 2).
    """
    rows, half = codes.shape
    groups = codes.view(rows // GROUP, GROUP, half)
    pairs = torch.stack([groups >> 4, groups & 15], dim=-1)  # (groups, 32, columns / 2, 2)
    low, high = pairs.split(GROUP // 2, dim=1)
    return ((high << 4) | low).permute(0, 2, 1, 3).reshape(rows, half)


def copied_bytes(source: Tensor) -> int:
    """Return the bytes of the copies of a weight whose codes are `source`."""
    found = [_copies.get((id(source), flip)) for flip in (False, True)]
    own = [copy for copy in found if copy is not None and copy.source() is source]
    return sum(copy.codes.nbytes + copy.scales.nbytes for copy in own)


def forget(source: Tensor) -> None:
    """Drop the copies of a weight whose codes are `source`."""
    for flip in (False, True):
        _copies.pop((id(source), flip), None)


def keeps_copies(source: Tensor) -> bool:
    """Return whether a copy may be kept: of a parameter whose changes show, not of a tensor gathered for one use.

    Not among several processes: FSDP2 writes to unsharded parameters and hides it from their version.
    """
    if type(source) is not nn.Parameter or source.is_inference():
        return False
    return not (torch.distributed.is_available() and torch.distributed.is_initialized())


def cuda_product(
    tensors: tuple[Tensor, ...], scheme: str, block: int, shape: torch.Size, x: Tensor, bias: Tensor | None
) -> Tensor:
    """Return x @ W.T + bias by `bitsandbytes::gemm_4bit`: (n, columns) → (n, rows), in the dtype of x.

    The operator itself chooses between its kernel and the dense weight, by the card and the sizes.
    """
    packed, scales, *second = tensors
    multiply = kernels().gemm_4bit.default
    if not second:
        return multiply(x, packed, shape, scales, block, scheme, bias)
    scales2, offset = second
    code = dynamic_map(packed.device)
    return multiply(x, packed, shape, scales2, block, scheme, bias, scales, code, offset.view(()))
