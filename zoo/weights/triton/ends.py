"""What the Triton kernels' products have in common: the sum of products, and how it ends.

See `four_bit.py` for the notation. An end adds the low-rank update's share and the bias, and stores the outputs.
"""

# mypy: disable-error-code="no-untyped-def"
# Arguments of a Triton kernel are pointers and numbers that its compiler types.
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def dot(first, second, acc, UPCAST: tl.constexpr, PRECISION: tl.constexpr):
    """Return acc + first @ second; `UPCAST` for the interpreter, which cannot multiply bfloat16."""
    if UPCAST:
        first, second = first.to(tl.float32), second.to(tl.float32)
    return tl.dot(first, second, acc, input_precision=PRECISION)


@triton.jit
def end_row(
    total, m, n, bias, hidden, up, y, outputs, rank, low_rank_scale, up_rank_stride, up_stride,
    BIAS: tl.constexpr, LOW_RANK: tl.constexpr, BLOCK_RANK: tl.constexpr,
):  # fmt: skip
    """End outputs `n` of row `m` of y, whose products with W are `total`."""
    if LOW_RANK:
        r = tl.arange(0, BLOCK_RANK)
        through = tl.load(hidden + m * rank + r, mask=r < rank, other=0.0).to(tl.float32)
        factor = tl.load(
            up + r[None, :] * up_rank_stride + n[:, None] * up_stride,
            mask=(n[:, None] < outputs) & (r[None, :] < rank),
            other=0.0,
        ).to(tl.float32)
        total += low_rank_scale * tl.sum(factor * through[None, :], axis=1)
    if BIAS:
        total += tl.load(bias + n, mask=n < outputs, other=0.0).to(tl.float32)
    tl.store(y + m.to(tl.int64) * outputs + n, total.to(y.dtype.element_ty), mask=n < outputs)


@triton.jit
def end_tile(
    acc, m, n, bias, hidden, up, y, M, outputs, rank, low_rank_scale, up_rank_stride, up_stride,
    BIAS: tl.constexpr, LOW_RANK: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_RANK: tl.constexpr,
    UPCAST: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """End outputs `n` (BLOCK_N,) of rows `m` (BLOCK_M,) of y, whose products with W are `acc`."""
    if LOW_RANK:
        r = tl.arange(0, BLOCK_RANK)
        through = tl.load(
            hidden + m[:, None] * rank + r[None, :], mask=(m[:, None] < M) & (r[None, :] < rank), other=0.0
        )
        factor = tl.load(
            up + r[:, None] * up_rank_stride + n[None, :] * up_stride,
            mask=(r[:, None] < rank) & (n[None, :] < outputs),
            other=0.0,
        )
        acc += low_rank_scale * dot(through, factor, tl.zeros((BLOCK_M, BLOCK_N), tl.float32), UPCAST, PRECISION)
    if BIAS:
        acc += tl.load(bias + n, mask=n < outputs, other=0.0).to(tl.float32)[None, :]
    where = y + m.to(tl.int64)[:, None] * outputs + n[None, :]
    tl.store(where, acc.to(y.dtype.element_ty), mask=(m[:, None] < M) & (n[None, :] < outputs))
