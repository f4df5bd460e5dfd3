"""Where operations on weights meet the kernels: each function does its work, or says that torch's path must.

None of it is differentiable: `differentiates` tells when a graph is wanted, of a second derivative for example.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.weights.codecs import Int8Rows
from zoo.weights.four_bit import FourBit
from zoo.weights.kernels import KERNEL_DTYPES, dynamic_map, four_bit_levels
from zoo.weights.quantized_tensor import Codec
from zoo.weights.triton.sizes import LARGEST_RANK, SMALLEST, way
from zoo.weights.update import Factors


def differentiates(*tensors: Tensor | None) -> bool:
    """Return whether autograd records what is computed from these now."""
    return torch.is_grad_enabled() and any(one is not None and one.requires_grad for one in tensors)


def product(
    codec: Codec,
    shape: torch.Size,
    tensors: tuple[Tensor, ...],
    x: Tensor,
    bias: Tensor | None,
    factors: Factors | None,
    flip: bool,
) -> Tensor | None:
    """Return x @ (W + ΔW).T + bias, or with `flip` x @ (W + ΔW) + bias, without unpacking W in memory.

    Args:
        codec: Of the weight.
        shape: (rows, columns).
        tensors: The weight's.
        x: (positions, inputs).
        bias: (outputs,), of the dtype of x.
        factors: ΔW, of the dtype of x.
        flip: Whether W is used as (inputs, outputs).

    Returns:
        (positions, outputs); None if no kernel fits the weight, or another way is faster at this size.
    """
    rows, columns = shape
    if (
        x.dtype not in KERNEL_DTYPES
        or x.shape[1] != (rows if flip else columns)
        or way(*x.shape[:1], *shape) == "unpack"
    ):
        return None
    up = hidden = None
    scale = 1.0
    if factors is not None:
        left, right, scale = factors
        down, up = (left, right) if flip else (right.t(), left.t())  # (in, rank), (rank, out)
        if up.shape[0] > LARGEST_RANK or up.dtype is not x.dtype:
            return None
        hidden = x.mm(down)  # (positions, rank)
    if differentiates(x, bias, hidden, up):
        return None
    x = x.contiguous()
    rest = (bias if bias is None else bias.contiguous(), hidden, up, scale)
    if isinstance(codec, FourBit) and columns % 2 == 0:
        packed = _four_bit(codec, tensors)
        return torch.ops.zoo.four_bit_product.default(x, *packed, *rest, rows, columns, codec.block_size, flip)
    if isinstance(codec, Int8Rows) and tensors[0].shape == shape:
        return torch.ops.zoo.int8_product.default(x, *tensors, *rest, flip)
    return None


def unpack(
    codec: Codec, shape: torch.Size, dtype: torch.dtype, tensors: tuple[Tensor, ...], channels_last: bool
) -> Tensor | None:
    """Return the dense weight, in the memory format that a convolution's input has; None if no kernel fits."""
    channels_last = channels_last and len(shape) in (4, 5)
    if dtype not in KERNEL_DTYPES:
        return None
    if isinstance(codec, FourBit):
        packed = _four_bit(codec, tensors)
        return torch.ops.zoo.unpack_four_bit.default(*packed, list(shape), codec.block_size, dtype, channels_last)
    if isinstance(codec, Int8Rows):
        return torch.ops.zoo.unpack_int8.default(*tensors, list(shape), dtype, channels_last)
    return None


def add_low_rank(y: Tensor, x: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor | None:
    """Add scale · (x @ down) @ up to y (positions, outputs), in place; return x @ down. None if it does not fit."""
    if x.dtype not in KERNEL_DTYPES or not (y.dtype is x.dtype is down.dtype is up.dtype):
        return None
    if up.shape[0] > LARGEST_RANK or not y.is_contiguous() or x.numel() < SMALLEST or differentiates(y, x, down, up):
        return None
    return torch.ops.zoo.add_low_rank.default(y, x.contiguous(), down, up, scale)


def _four_bit(codec: FourBit, tensors: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
    levels = four_bit_levels(codec.scheme, tensors[0].device)
    if codec.double:
        return (*tensors, dynamic_map(tensors[0].device), levels)
    return (*tensors, None, None, None, levels)
