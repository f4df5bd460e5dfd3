"""How a product with a quantized weight is computed: the one place that decides it, by measured sizes.

A codec's `product` asks `choose`, and does what it says. Where that is `Way.DENSE` it returns None, and the operation
multiplies by the dequantized weight, as for codecs that have no such method.
"""

from __future__ import annotations

import enum
import math

import torch

TILED = 1 << 18  # values of a weight from which tiles pay
TILE = 1 << 18  # values of a tile, for each thread
TALL = 128  # rows of a tile, if its columns are many: matrix products with fewer are slow
LARGEST = 1 << 20  # values of a tile for all that
FUSED = 1 << 16  # values of a weight from which the CPU's fused kernel pays
THREADS = 8  # for more, a tile grows no further


class Way(enum.Enum):
    """How to multiply by a quantized weight.

    Attributes:
        DENSE: Dequantize the whole weight, and let torch multiply.
        TILES: Dequantize a tile that stays in the cache, multiply, and go on to the next; see `zoo.weights.tiles`.
        FUSED: Leave it to a kernel that reads the stored weight; see `zoo.weights.fused`.
    """

    DENSE = enum.auto()
    TILES = enum.auto()
    FUSED = enum.auto()


def choose(
    device: torch.device,
    dtype: torch.dtype,
    positions: int,
    rows: int,
    columns: int,
    fused: bool = False,
    flip: bool = False,
) -> Way:
    """Return the way to multiply `positions` rows of x by a quantized weight of (rows, columns).

    Measured on one CPU thread, time ÷ that of the float32 weight (nf4, 3072 × 768; dense, then tiles): 1 row 1.54 .62,
    4 rows 1.25 .70, 64 rows 1.15 .83, 512 rows 1.04 .96; 4096 × 4096, whose dense form has to be allocated anew each
    time: 1 row 9.99 1.02, 64 rows 1.93 .89. In 16 bit torch multiplies many rows faster than the float32 of the tiles:
    bf16, 3072 × 768: 1 row 2.84 1.25, 4 rows 1.58 1.71, 16 rows 1.42 1.93; 50257 × 768: 5.3 1.1, 5.0 1.5, 3.7 1.9.

    A fused kernel is taken where there is one. That of the CPU multiplies in bf16: only for a bf16 x, or for a float32
    one where the user allows that, see `allow_bf16_products`. Its time ÷ that of the float32 weight, 3072 × 768: 1 row
    .13, 4 rows .16, 16 rows .29. Flipped it runs once for each block of outputs: 4096 × 4096 at 1, 4, 16 and 64 rows
    .22 .19 .53 2.4, not flipped .15 .11 .32 .54.

    Args:
        device: Where the weight is.
        dtype: The compute dtype.
        positions: Rows of x: batch size times sequence length.
        rows: Rows of the weight.
        columns: Columns of the weight.
        fused: Whether the weight's codec has a fused kernel for this product on this device.
        flip: Whether the product is x @ W, not x @ W.T.
    """
    size = rows * columns
    if fused and positions:
        if device.type != "cpu":
            return Way.FUSED
        allowed = dtype is torch.bfloat16 or (dtype is torch.float32 and multiplies_in_bf16())
        if allowed and size >= FUSED and positions <= (16 if flip else 64):
            return Way.FUSED
    if size < TILED or device.type != "cpu" or not positions:
        return Way.DENSE
    if dtype is torch.float32:
        return Way.TILES if positions <= 512 else Way.DENSE
    if dtype is torch.bfloat16 or dtype is torch.float16:
        return Way.TILES if positions <= (4 if size < 1 << 24 else 32) else Way.DENSE
    return Way.DENSE


_allowed = False


def allow_bf16_products(allowed: bool = True) -> None:
    """Let float32 models multiply by weights in 4 bit with bf16 arithmetic, on CPUs with AVX-512-BF16.

    Decoding one token at a time then takes about a third of the time. x and the scales are rounded to bf16, sums are
    float32, and a product's relative error is 3e-3; without it, it is that of float32. The kernel keeps a copy of each
    weight that it has used, of 4.25 bit per value, which `model.footprint()` counts.
    `torch.set_float32_matmul_precision("medium")` allows the same, and torch its own products in bf16. A bf16 model
    needs no leave.

    Args:
        allowed: Whether to allow it, for the whole process.
    """
    global _allowed
    _allowed = allowed


@torch.compiler.assume_constant_result  # what torch says of its precision cannot be traced
def multiplies_in_bf16() -> bool:
    """Return whether float32 products may be computed in bf16; see `allow_bf16_products`."""
    return _allowed or torch.get_float32_matmul_precision() == "medium"


def tile_rows(columns: int, multiple: int = 1) -> int:
    """Return the rows of a tile, a multiple of `multiple`; 0 if no tile of that form is small enough.

    Larger ones cost the cache, smaller ones calls and slow products. Measured for 3072 × 768, nf4, float32, time ÷ that
    of the float32 weight for 64, 128, 256 and 512 rows of a tile: .87 .66 .62 .60 for one row of x, 1.02 .85 .77 .78
    for 16; for 768 × 3072 .78 .74 .71 .77 and 1.13 1.04 1.05 1.05.
    """
    wanted = max(TILE * min(torch.get_num_threads(), THREADS) // columns, min(TALL, LARGEST // columns), 1)
    found = math.ceil(wanted / multiple) * multiple
    return found if found * columns <= 2 * max(LARGEST, TILE * THREADS) else 0
