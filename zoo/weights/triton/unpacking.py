"""Triton kernels that unpack a weight: nf4 and fp4, and 8 bit by rows, contiguous or channels last.

Channels last puts a convolution's weight (O, I, *kernel) into memory as (O, *kernel, I): the values are read where they
are and written in their new order, in one pass.
"""

# mypy: disable-error-code="no-untyped-def"
# Arguments of a Triton kernel are pointers and numbers that its compiler types.
from __future__ import annotations

import triton
import triton.language as tl

from zoo.weights.triton.four_bit import scale_of


@triton.jit
def unpack_pairs(
    packed, scales, scales2, offset, table, levels, out, size,
    block: tl.constexpr, DOUBLE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Unpack BLOCK bytes of nf4 or fp4 to 2 · BLOCK neighbouring values."""
    byte = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = 2 * byte < size
    codes = tl.load(packed + byte, mask=mask, other=0).to(tl.int32)
    scale = scale_of(scales, scales2, offset, table, byte // (block // 2), mask, DOUBLE)
    pairs = tl.interleave(tl.load(levels + (codes >> 4)) * scale, tl.load(levels + (codes & 15)) * scale)
    value = tl.program_id(0).to(tl.int64) * (2 * BLOCK) + tl.arange(0, 2 * BLOCK)
    tl.store(out + value, pairs.to(out.dtype.element_ty), mask=value < size)


@triton.jit
def source_of(value, inner, kernel):
    """Return which value of a weight (O, inner, kernel) lies at `value` in memory as (O, kernel, inner)."""
    image = inner * kernel
    within = value % image
    return value - within + (within % inner) * kernel + within // inner


@triton.jit
def unpack_channels_last(
    packed, scales, scales2, offset, table, levels, out, size, inner, kernel,
    block: tl.constexpr, DOUBLE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Unpack BLOCK neighbouring values of the result, of nf4 or fp4."""
    value = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = value < size
    source = source_of(value, inner, kernel)
    byte = tl.load(packed + source // 2, mask=mask, other=0).to(tl.int32)
    codes = tl.where(source % 2 == 0, byte >> 4, byte & 15)
    scale = scale_of(scales, scales2, offset, table, source // block, mask, DOUBLE)
    tl.store(out + value, (tl.load(levels + codes) * scale).to(out.dtype.element_ty), mask=mask)


@triton.jit
def unpack_rows(
    values, scales, out, size, columns, inner, kernel, CHANNELS_LAST: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Unpack BLOCK neighbouring values of the result, of int8 with a scale for each row of `columns` values."""
    value = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = value < size
    source = value
    if CHANNELS_LAST:
        source = source_of(value, inner, kernel)
    scale = tl.load(scales + source // columns, mask=mask, other=0.0) / 127
    stored = tl.load(values + source, mask=mask, other=0).to(tl.float32)
    tl.store(out + value, (stored * scale).to(out.dtype.element_ty), mask=mask)
