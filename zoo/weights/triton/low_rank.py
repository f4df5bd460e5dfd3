"""A Triton kernel for LoRA's two small products: x (M, inputs) goes through `rank` columns to y (M, outputs).

    hidden = x @ down       down (inputs, rank)
    y     += scale · hidden @ up      up (rank, outputs)

The backward pass for x is the same product with the output's gradient, `up` and `down` transposed; it gives the
gradient of `hidden`, which the gradient of `down` needs.
"""

# mypy: disable-error-code="no-untyped-def"
# Arguments of a Triton kernel are pointers and numbers that its compiler types.
from __future__ import annotations

import triton
import triton.language as tl

from zoo.weights.triton.ends import dot


@triton.jit
def add_low_rank(
    y, x, down, up, hidden, M, inputs, outputs, rank, scale, part, down_stride, down_rank_stride, up_rank_stride,
    up_stride,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_RANK: tl.constexpr,
    UPCAST: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Compute BLOCK_M rows and `part` outputs (a multiple of BLOCK_N); the first part also stores `hidden`."""
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    r = tl.arange(0, BLOCK_RANK)
    row = m.to(tl.int64)[:, None]
    through = tl.zeros((BLOCK_M, BLOCK_RANK), tl.float32)
    for first in range(0, inputs, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)
        tile = tl.load(x + row * inputs + k[None, :], mask=(m[:, None] < M) & (k[None, :] < inputs), other=0.0)
        factor = tl.load(
            down + k[:, None] * down_stride + r[None, :] * down_rank_stride,
            mask=(k[:, None] < inputs) & (r[None, :] < rank),
            other=0.0,
        )
        through = dot(tile, factor, through, UPCAST, PRECISION)
    short = through.to(hidden.dtype.element_ty)
    if tl.program_id(1) == 0:
        tl.store(hidden + row * rank + r[None, :], short, mask=(m[:, None] < M) & (r[None, :] < rank))
    begin = tl.program_id(1) * part
    for first in range(begin, tl.minimum(begin + part, outputs), BLOCK_N):
        n = first + tl.arange(0, BLOCK_N)
        factor = tl.load(
            up + r[:, None] * up_rank_stride + n[None, :] * up_stride,
            mask=(r[:, None] < rank) & (n[None, :] < outputs),
            other=0.0,
        )
        change = dot(short, factor, tl.zeros((BLOCK_M, BLOCK_N), tl.float32), UPCAST, PRECISION)
        mask = (m[:, None] < M) & (n[None, :] < outputs)
        where = y + row * outputs + n[None, :]
        before = tl.load(where, mask=mask, other=0.0).to(tl.float32)
        tl.store(where, (before + scale * change).to(y.dtype.element_ty), mask=mask)
