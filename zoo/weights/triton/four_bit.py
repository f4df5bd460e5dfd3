"""Triton kernels for products with nf4 and fp4 weights: the weight is unpacked in registers and never written out.

Notation:
    W          the weight as a matrix (rows, columns), packed in its order in memory: two codes a byte, the first in the
               upper half; `columns` is even, so that a row begins with a byte
    block      values that share a scale
    x, y       (M, columns) and (M, rows), y = x @ W.T; flipped (M, rows) and (M, columns), y = x @ W
    hidden     (M, R), what goes through a low-rank update; up (R, outputs): y += scale · hidden @ up

A byte holds two neighbours in a row, so a product with W.T is that of the even columns of x with the upper halves plus
that of the odd ones with the lower halves: nothing is interleaved. Flipped, the halves are even and odd outputs.
"""

# mypy: disable-error-code="no-untyped-def"
# Arguments of a Triton kernel are pointers and numbers that its compiler types.
from __future__ import annotations

import triton
import triton.language as tl

from zoo.weights.triton.ends import dot, end_row, end_tile


@triton.jit
def scale_of(scales, scales2, offset, table, block, mask, DOUBLE: tl.constexpr):
    """Return the scale of each of `block`, float32: map[scales] · scales2 + offset if they are quantized themselves."""
    if DOUBLE:
        codes = tl.load(scales + block, mask=mask, other=0).to(tl.int32)
        second = tl.load(scales2 + block // 256, mask=mask, other=0.0)
        found = tl.load(table + codes) * second + tl.load(offset)
    else:
        found = tl.load(scales + block, mask=mask, other=0.0)
    return found


@triton.jit
def row_product(
    x, packed, scales, scales2, offset, table, levels, bias, hidden, up, y, M, rows, columns, rank, low_rank_scale,
    up_rank_stride, up_stride,
    block: tl.constexpr, DOUBLE: tl.constexpr, ALIGNED: tl.constexpr, BIAS: tl.constexpr, LOW_RANK: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, GROUPS: tl.constexpr, HALF: tl.constexpr, BLOCK_RANK: tl.constexpr,
):  # fmt: skip
    """Compute one row of x times W.T, for `BLOCK_ROWS` outputs: a program reads each of its bytes of W once.

    GROUPS · HALF bytes of each row are read at once. ALIGNED: a group of HALF bytes lies in one block of W.
    """
    m = tl.program_id(1)
    n = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    group, part = tl.arange(0, GROUPS), tl.arange(0, HALF)
    half = columns // 2  # bytes of a row
    start = n.to(tl.int64)[:, None, None] * half
    inside = n[:, None, None] < rows
    sums = tl.zeros((BLOCK_ROWS, GROUPS, HALF), tl.float32)
    for first in range(0, half, GROUPS * HALF):
        column = first + group[:, None] * HALF + part[None, :]  # (GROUPS, HALF), in bytes
        within = column < half
        even = tl.load(x + m.to(tl.int64) * columns + 2 * column, mask=within, other=0.0).to(tl.float32)
        odd = tl.load(x + m.to(tl.int64) * columns + 2 * column + 1, mask=within, other=0.0).to(tl.float32)
        mask = inside & within[None, :, :]
        codes = tl.load(packed + start + column[None, :, :], mask=mask, other=0).to(tl.int32)
        if ALIGNED:
            at = first + group * HALF  # (GROUPS,)
            where = (n.to(tl.int64)[:, None] * half + at[None, :]) // (block // 2)
            by_group = scale_of(
                scales, scales2, offset, table, where, (n[:, None] < rows) & (at[None, :] < half), DOUBLE
            )
            scale = by_group[:, :, None]  # (BLOCK_ROWS, GROUPS, 1)
        else:
            scale = scale_of(scales, scales2, offset, table, (start + column[None, :, :]) // (block // 2), mask, DOUBLE)
        upper, lower = tl.load(levels + (codes >> 4)), tl.load(levels + (codes & 15))
        sums += (upper * even[None, :, :] + lower * odd[None, :, :]) * scale
    total = tl.sum(tl.sum(sums, axis=2), axis=1)  # (BLOCK_ROWS,)
    end_row(
        total, m, n, bias, hidden, up, y, rows, rank, low_rank_scale, up_rank_stride, up_stride,
        BIAS, LOW_RANK, BLOCK_RANK,
    )  # fmt: skip


@triton.jit
def tile_product(
    x, packed, scales, scales2, offset, table, levels, bias, hidden, up, y, M, rows, columns, rank, low_rank_scale,
    up_rank_stride, up_stride,
    block: tl.constexpr, DOUBLE: tl.constexpr, ALIGNED: tl.constexpr, BIAS: tl.constexpr, LOW_RANK: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_RANK: tl.constexpr,
    UPCAST: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Compute a tile (BLOCK_M, BLOCK_N) of x @ W.T; BLOCK_K in bytes. ALIGNED: they lie in one block of W."""
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    half = columns // 2
    row, start = m.to(tl.int64)[:, None] * columns, n.to(tl.int64)[None, :] * half
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for first in range(0, half, BLOCK_K):
        column = first + k
        known = (m[:, None] < M) & (column[None, :] < half)
        even = tl.load(x + row + 2 * column[None, :], mask=known, other=0.0)
        odd = tl.load(x + row + 2 * column[None, :] + 1, mask=known, other=0.0)
        mask = (column[:, None] < half) & (n[None, :] < rows)
        codes = tl.load(packed + start + column[:, None], mask=mask, other=0).to(tl.int32)  # (BLOCK_K, BLOCK_N)
        if ALIGNED:
            scale = scale_of(scales, scales2, offset, table, (start + first) // (block // 2), n[None, :] < rows, DOUBLE)
        else:
            scale = scale_of(scales, scales2, offset, table, (start + column[:, None]) // (block // 2), mask, DOUBLE)
        upper = (tl.load(levels + (codes >> 4)) * scale).to(even.dtype)
        lower = (tl.load(levels + (codes & 15)) * scale).to(even.dtype)
        acc = dot(even, upper, acc, UPCAST, PRECISION)
        acc = dot(odd, lower, acc, UPCAST, PRECISION)
    end_tile(
        acc, m, n, bias, hidden, up, y, M, rows, rank, low_rank_scale, up_rank_stride, up_stride,
        BIAS, LOW_RANK, BLOCK_M, BLOCK_N, BLOCK_RANK, UPCAST, PRECISION,
    )  # fmt: skip


@triton.jit
def flipped_tile_product(
    x, packed, scales, scales2, offset, table, levels, bias, hidden, up, y, M, rows, columns, rank, low_rank_scale,
    up_rank_stride, up_stride,
    block: tl.constexpr, DOUBLE: tl.constexpr, ALIGNED: tl.constexpr, BIAS: tl.constexpr, LOW_RANK: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_RANK: tl.constexpr,
    UPCAST: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Compute a tile (BLOCK_M, 2 · BLOCK_N) of x @ W; BLOCK_N in bytes. ALIGNED: they lie in one block of W."""
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    first = tl.program_id(1) * BLOCK_N
    n = first + tl.arange(0, BLOCK_N)  # in bytes: outputs 2n and 2n + 1
    half = columns // 2
    upper_acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    lower_acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for begin in range(0, rows, BLOCK_K):
        k = begin + tl.arange(0, BLOCK_K)
        known = (m[:, None] < M) & (k[None, :] < rows)
        values = tl.load(x + m.to(tl.int64)[:, None] * rows + k[None, :], mask=known, other=0.0)
        mask = (k[:, None] < rows) & (n[None, :] < half)
        start = k.to(tl.int64)[:, None] * half
        codes = tl.load(packed + start + n[None, :], mask=mask, other=0).to(tl.int32)  # (BLOCK_K, BLOCK_N)
        if ALIGNED:
            scale = scale_of(scales, scales2, offset, table, (start + first) // (block // 2), k[:, None] < rows, DOUBLE)
        else:
            scale = scale_of(scales, scales2, offset, table, (start + n[None, :]) // (block // 2), mask, DOUBLE)
        upper = (tl.load(levels + (codes >> 4)) * scale).to(values.dtype)
        lower = (tl.load(levels + (codes & 15)) * scale).to(values.dtype)
        upper_acc = dot(values, upper, upper_acc, UPCAST, PRECISION)
        lower_acc = dot(values, lower, lower_acc, UPCAST, PRECISION)
    end_tile(
        upper_acc, m, 2 * n, bias, hidden, up, y, M, columns, rank, low_rank_scale, up_rank_stride, up_stride,
        BIAS, LOW_RANK, BLOCK_M, BLOCK_N, BLOCK_RANK, UPCAST, PRECISION,
    )  # fmt: skip
    end_tile(
        lower_acc, m, 2 * n + 1, bias, hidden, up, y, M, columns, rank, low_rank_scale, up_rank_stride, up_stride,
        BIAS, LOW_RANK, BLOCK_M, BLOCK_N, BLOCK_RANK, UPCAST, PRECISION,
    )  # fmt: skip
