"""Triton kernels for products with int8 weights that have a scale for each row: the codes are multiplied as they are.

See `four_bit.py` for the notation. In x @ W.T a row's scale is that of an output and is multiplied last; flipped it is
that of an input.
"""

# mypy: disable-error-code="no-untyped-def"
# Arguments of a Triton kernel are pointers and numbers that its compiler types.
from __future__ import annotations

import triton
import triton.language as tl

from zoo.weights.triton.ends import dot, end_row, end_tile


@triton.jit
def row_product(
    x, values, scales, bias, hidden, up, y, M, rows, columns, rank, low_rank_scale, up_rank_stride, up_stride,
    BIAS: tl.constexpr, LOW_RANK: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_RANK: tl.constexpr,
):  # fmt: skip
    """Compute one row of x times W.T, for BLOCK_ROWS outputs."""
    m = tl.program_id(1)
    n = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    sums = tl.zeros((BLOCK_ROWS, BLOCK_K), tl.float32)
    for first in range(0, columns, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)
        inputs = tl.load(x + m.to(tl.int64) * columns + k, mask=k < columns, other=0.0).to(tl.float32)
        mask = (n[:, None] < rows) & (k[None, :] < columns)
        codes = tl.load(values + n.to(tl.int64)[:, None] * columns + k[None, :], mask=mask, other=0)
        sums += codes.to(tl.float32) * inputs[None, :]
    total = tl.sum(sums, axis=1) * (tl.load(scales + n, mask=n < rows, other=0.0) / 127)
    end_row(
        total, m, n, bias, hidden, up, y, rows, rank, low_rank_scale, up_rank_stride, up_stride,
        BIAS, LOW_RANK, BLOCK_RANK,
    )  # fmt: skip


@triton.jit
def tile_product(
    x, values, scales, bias, hidden, up, y, M, outputs, inputs, rank, low_rank_scale, up_rank_stride, up_stride,
    input_stride, output_stride,
    FLIP: tl.constexpr, BIAS: tl.constexpr, LOW_RANK: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_RANK: tl.constexpr,
    UPCAST: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Compute a tile (BLOCK_M, BLOCK_N) of x @ W.T, or flipped of x @ W; the strides are those of W."""
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for first in range(0, inputs, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)
        known = (m[:, None] < M) & (k[None, :] < inputs)
        tile = tl.load(x + m.to(tl.int64)[:, None] * inputs + k[None, :], mask=known, other=0.0)
        mask = (k[:, None] < inputs) & (n[None, :] < outputs)
        where = k.to(tl.int64)[:, None] * input_stride + n.to(tl.int64)[None, :] * output_stride
        codes = tl.load(values + where, mask=mask, other=0)
        if FLIP:
            scale = tl.load(scales + k, mask=k < inputs, other=0.0) / 127
            tile = (tile.to(tl.float32) * scale[None, :]).to(tile.dtype)
        acc = dot(tile, codes.to(tl.float32).to(tile.dtype), acc, UPCAST, PRECISION)  # exact in any of them
    if not FLIP:
        acc *= (tl.load(scales + n, mask=n < outputs, other=0.0) / 127)[None, :]
    end_tile(
        acc, m, n, bias, hidden, up, y, M, outputs, rank, low_rank_scale, up_rank_stride, up_stride,
        BIAS, LOW_RANK, BLOCK_M, BLOCK_N, BLOCK_RANK, UPCAST, PRECISION,
    )  # fmt: skip
