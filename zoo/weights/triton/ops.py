"""The Triton kernels as torch operators: what each takes is checked here, and here it is launched.

They are registered as `torch.ops.zoo.*`, with a fake implementation each, so that `torch.compile` keeps them whole and
fake tensors pass through. They have no gradients of their own: zoo's autograd functions call them in both passes.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from zoo.weights.triton import checks, eight_bit, four_bit, low_rank, unpacking
from zoo.weights.triton.interpreter import interpreting
from zoo.weights.triton.sizes import ROWS, Tile, row_tile, splits, tile_of

LIBRARY = torch.library.Library("zoo", "DEF")
_FOUR_BIT = "Tensor packed, Tensor scales, Tensor? scales2, Tensor? offset, Tensor? table, Tensor levels"
_LOW_RANK = "Tensor? bias, Tensor? hidden, Tensor? up, float scale"
_MATRIX = "SymInt rows, SymInt columns"
UNPACK = 1024  # values, or bytes of two, that a program unpacks


def _dot_options(x: Tensor) -> dict[str, object]:
    exact = x.dtype is not torch.float32 or torch.get_float32_matmul_precision() == "highest"
    return {"UPCAST": interpreting(), "PRECISION": "ieee" if exact else "tf32"}


def _block_rank(rank: int) -> int:
    return max(16, triton.next_power_of_2(rank))


def _low_rank_arguments(x: Tensor, hidden: Tensor | None, up: Tensor | None) -> tuple[Tensor, Tensor, int, int, int]:
    """Return hidden, up, rank and up's strides; without an update pointers that are never read."""
    if hidden is None or up is None:
        return x, x, 1, 1, 1
    return hidden, up, hidden.shape[1], up.stride(0), up.stride(1)


def four_bit_product(
    x: Tensor, packed: Tensor, scales: Tensor, scales2: Tensor | None, offset: Tensor | None, table: Tensor | None,
    levels: Tensor, bias: Tensor | None, hidden: Tensor | None, up: Tensor | None, scale: float,
    rows: int, columns: int, block: int, flip: bool,
) -> Tensor:  # fmt: skip
    """Return x @ W.T + bias + scale · hidden @ up with W (rows, columns) in nf4 or fp4; with `flip` x @ W + ….

    Args:
        x: (M, columns); with `flip` (M, rows).
        packed: uint8, two codes a byte.
        scales: float32 (blocks,), or uint8 with the next three.
        scales2: float32 (⌈blocks / 256⌉,).
        offset: float32 (1,).
        table: float32 (256,), bitsandbytes' dynamic map.
        levels: float32 (16,), the values of the 4-bit type.
        bias: (outputs,).
        hidden: (M, rank).
        up: (rank, outputs), of any strides.
        scale: Before hidden @ up.
        rows: Of W.
        columns: Of W; even.
        block: Values that share a scale.
        flip: Whether W is used as (inputs, outputs).

    Returns:
        (M, outputs), of the dtype of x.

    Raises:
        WeightError: A shape or dtype does not fit.
    """
    y = checks.four_bit_product(
        x, packed, scales, scales2, offset, table, levels, bias, hidden, up, scale, rows, columns, block, flip
    )
    m, half = x.shape[0], columns // 2
    if not y.numel():
        return y
    through, second, rank, *strides = _low_rank_arguments(x, hidden, up)
    numbers = (m, rows, columns, rank, scale, *strides)
    tensors = (
        x, packed, scales, scales if scales2 is None else scales2, scales if offset is None else offset,
        scales if table is None else table, levels, x if bias is None else bias, through, second, y,
    )  # fmt: skip
    flags = {"block": block, "DOUBLE": scales2 is not None, "BIAS": bias is not None, "LOW_RANK": hidden is not None}
    flags["BLOCK_RANK"] = _block_rank(rank)
    if m <= ROWS and not flip:
        outputs, groups, group = row_tile(half, block)
        four_bit.row_product[(triton.cdiv(rows, outputs), m)](
            *tensors, *numbers, **flags, ALIGNED=columns % block == 0,
            BLOCK_ROWS=outputs, GROUPS=groups, HALF=group, num_warps=4,
        )  # fmt: skip
        return y
    tile = tile_of(m)
    along = tile.n if flip else tile.k  # bytes of a row that a tile takes
    kernel = four_bit.flipped_tile_product if flip else four_bit.tile_product
    kernel[(triton.cdiv(m, tile.m), triton.cdiv(half if flip else rows, tile.n))](
        *tensors, *numbers, **flags, ALIGNED=columns % block == 0 and (block // 2) % along == 0,
        BLOCK_M=tile.m, BLOCK_N=tile.n, BLOCK_K=tile.k, **_dot_options(x),
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return y


def int8_product(
    x: Tensor, values: Tensor, scales: Tensor, bias: Tensor | None, hidden: Tensor | None, up: Tensor | None,
    scale: float, flip: bool,
) -> Tensor:  # fmt: skip
    """Return x @ W.T + bias + scale · hidden @ up with W = values · scales / 127; with `flip` x @ W + ….

    Args:
        x: (M, columns); with `flip` (M, rows).
        values: int8 (rows, columns).
        scales: float32 (rows,).
        bias: (outputs,).
        hidden: (M, rank).
        up: (rank, outputs), of any strides.
        scale: Before hidden @ up.
        flip: Whether W is used as (inputs, outputs).

    Returns:
        (M, outputs), of the dtype of x.

    Raises:
        WeightError: A shape or dtype does not fit.
    """
    y = checks.int8_product(x, values, scales, bias, hidden, up, scale, flip)
    if not y.numel():
        return y
    m, outputs = y.shape
    rows, columns = values.shape
    through, second, rank, *strides = _low_rank_arguments(x, hidden, up)
    tensors = (x, values, scales, x if bias is None else bias, through, second, y)
    flags = {"BIAS": bias is not None, "LOW_RANK": hidden is not None, "BLOCK_RANK": _block_rank(rank)}
    if m <= ROWS and not flip:
        eight_bit.row_product[(triton.cdiv(rows, 8), m)](
            *tensors, m, rows, columns, rank, scale, *strides, **flags,
            BLOCK_ROWS=8, BLOCK_K=min(512, triton.next_power_of_2(columns)), num_warps=4,
        )  # fmt: skip
        return y
    tile = tile_of(m)
    inner = (columns, 1) if flip else (1, columns)  # W's strides along inputs and outputs
    eight_bit.tile_product[(triton.cdiv(m, tile.m), triton.cdiv(outputs, tile.n))](
        *tensors, m, outputs, x.shape[1], rank, scale, *strides, *inner, **flags, FLIP=flip,
        BLOCK_M=tile.m, BLOCK_N=tile.n, BLOCK_K=2 * tile.k, **_dot_options(x),
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return y


def add_low_rank(y: Tensor, x: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """Add scale · (x @ down) @ up to `y`, in place; return x @ down.

    Args:
        y: (M, outputs).
        x: (M, inputs).
        down: (inputs, rank), of any strides.
        up: (rank, outputs), of any strides.
        scale: Before the product.

    Returns:
        (M, rank), of the dtype of x.

    Raises:
        WeightError: A shape or dtype does not fit.
    """
    hidden = checks.add_low_rank(y, x, down, up, scale)
    if not x.numel() or not y.numel():
        return hidden
    m, inputs = x.shape
    rank, outputs = up.shape
    tile = Tile(16, 64, 64, 4, 3) if m <= 1024 else Tile(64, 64, 64, 4, 3)
    part = splits(m, tile.m, outputs, tile.n)
    low_rank.add_low_rank[(triton.cdiv(m, tile.m), triton.cdiv(outputs, part))](
        y, x, down, up, hidden, m, inputs, outputs, rank, scale, part, *down.stride(), *up.stride(),
        BLOCK_M=tile.m, BLOCK_N=tile.n, BLOCK_K=tile.k, BLOCK_RANK=_block_rank(rank), **_dot_options(x),
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return hidden


def unpack_four_bit(
    packed: Tensor, scales: Tensor, scales2: Tensor | None, offset: Tensor | None, table: Tensor | None,
    levels: Tensor, shape: list[int], block: int, dtype: torch.dtype, channels_last: bool,
) -> Tensor:  # fmt: skip
    """Return the dense weight of `shape` and `dtype` from nf4 or fp4; with `channels_last` in that memory format.

    The packed tensors are those of `four_bit_product`. A shape of 4 or 5 dimensions is needed for channels last.

    Raises:
        WeightError: A shape or dtype does not fit.
    """
    out = checks.unpack_four_bit(packed, scales, scales2, offset, table, levels, shape, block, dtype, channels_last)
    size = out.numel()
    if not size:
        return out
    tensors = (
        packed, scales, scales if scales2 is None else scales2, scales if offset is None else offset,
        scales if table is None else table, levels, out,
    )  # fmt: skip
    flags = {"block": block, "DOUBLE": scales2 is not None, "BLOCK": UNPACK, "num_warps": 4}
    if channels_last:
        inner, kernel = shape[1], size // (shape[0] * shape[1])
        unpacking.unpack_channels_last[(triton.cdiv(size, UNPACK),)](*tensors, size, inner, kernel, **flags)
    else:
        unpacking.unpack_pairs[(triton.cdiv(size, 2 * UNPACK),)](*tensors, size, **flags)
    return out


def unpack_int8(values: Tensor, scales: Tensor, shape: list[int], dtype: torch.dtype, channels_last: bool) -> Tensor:
    """Return the dense weight of `shape` and `dtype` from int8 (rows, columns) and float32 scales (rows,).

    Raises:
        WeightError: A shape or dtype does not fit.
    """
    out = checks.unpack_int8(values, scales, shape, dtype, channels_last)
    size = out.numel()
    if size:
        inner, kernel = (shape[1], size // (shape[0] * shape[1])) if channels_last else (1, 1)
        unpacking.unpack_rows[(triton.cdiv(size, UNPACK),)](
            values, scales, out, size, values.shape[1], inner, kernel,
            CHANNELS_LAST=channels_last, BLOCK=UNPACK, num_warps=4,
        )  # fmt: skip
    return out


_OPERATORS = (
    (f"four_bit_product(Tensor x, {_FOUR_BIT}, {_LOW_RANK}, {_MATRIX}, int block, bool flip) -> Tensor",
     four_bit_product, checks.four_bit_product),
    (f"int8_product(Tensor x, Tensor values, Tensor scales, {_LOW_RANK}, bool flip) -> Tensor",
     int8_product, checks.int8_product),
    ("add_low_rank(Tensor(a!) y, Tensor x, Tensor down, Tensor up, float scale) -> Tensor",
     add_low_rank, checks.add_low_rank),
    (f"unpack_four_bit({_FOUR_BIT}, SymInt[] shape, int block, ScalarType dtype, bool channels_last) -> Tensor",
     unpack_four_bit, checks.unpack_four_bit),
    ("unpack_int8(Tensor values, Tensor scales, SymInt[] shape, ScalarType dtype, bool channels_last) -> Tensor",
     unpack_int8, checks.unpack_int8),
)  # fmt: skip
for _schema, _launch, _fake in _OPERATORS:
    LIBRARY.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))
    _name = _schema.partition("(")[0]
    LIBRARY.impl(_name, _launch, "CPU" if interpreting() else "CUDA")
    torch.library.register_fake(f"zoo::{_name}", _fake, lib=LIBRARY)
