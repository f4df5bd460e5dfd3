"""Which way of multiplying serves which size, and the kernels' tile sizes, in one place.

These numbers are reasoned and have not been measured on a card yet: `benchmarks/gpu.py --only kernels` sweeps them.

Few rows of x read a packed weight at the speed of memory, so the kernel that unpacks in registers must win: half a byte
a value instead of one read, two written and two read again. Each tile of rows unpacks the weight once more, so with
many rows unpacking it once and calling the library's product wins. A program of the row kernel reads 4 KiB at once; one
of the tile kernels holds an accumulator of 16 × 32 to 64 × 64.
"""

from __future__ import annotations

from typing import NamedTuple

ROWS = 2  # rows of x up to which every row is a product of its own
TILES = 128  # rows of x up to which tiles unpack in registers; above, the weight is unpacked once
SMALLEST = 1 << 16  # values of a weight from which a kernel of ours is worth its launch
LARGEST_RANK = 128  # of a low-rank update that is added in the same kernel
PROGRAMS = 132  # programs that fill a card: the multiprocessors of an H100


class Tile(NamedTuple):
    """Sizes of a kernel's tiles; `k` and a flipped product's `n` count bytes, which hold two values in 4 bit."""

    m: int
    n: int
    k: int
    warps: int
    stages: int


def way(m: int, rows: int, columns: int) -> str:
    """Return how x (m, columns) is multiplied by a packed weight (rows, columns).

    Returns:
        "rows", "tiles", or "unpack" for the library's product with the dense weight.
    """
    if rows * columns < SMALLEST or m > TILES:
        return "unpack"
    return "rows" if m <= ROWS else "tiles"


def tile_of(m: int) -> Tile:
    """Return the tile sizes of a product with m rows."""
    if m <= 16:
        return Tile(16, 32, 32, 4, 4)
    if m <= 32:
        return Tile(32, 32, 32, 4, 4)
    return Tile(64, 64, 32, 4, 3)


def row_tile(half: int, block: int) -> tuple[int, int, int]:
    """Return (outputs, groups, bytes of a group) that a program of the 4-bit row kernel reads at once.

    Args:
        half: Bytes of a row.
        block: Values that share a scale; a group never spans two blocks.
    """
    group = min(block // 2, 64)
    groups = 1
    while groups * group < min(512, half):
        groups *= 2
    return 8, groups, group


def splits(m: int, tile: int, outputs: int, width: int) -> int:
    """Return how many outputs a program of the low-rank kernel takes: few where there are few rows, to fill the card.

    Args:
        m: Rows of x.
        tile: Rows that a program takes.
        outputs: All of them.
        width: The result is a multiple of it.
    """
    parts = max(1, PROGRAMS // -(-m // tile))
    return -(-outputs // (parts * width)) * width
