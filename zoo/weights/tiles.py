"""Products with a weight that is dequantized in tiles: each stays in the cache for its own product, and none is kept.

The result is that of the dense weight but for the order of sums: float32, whatever the dtype of x.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

import torch
from torch import Tensor

from zoo.weights.native import in_memory
from zoo.weights.products import Way, choose, tile_rows

# Writes rows `start` to `stop` of a weight (rows, columns) into a tile, float32 (stop - start, columns), contiguous.
Fill = Callable[[Tensor, int, int], object]

_SLACK = 64  # values that a fill may write beyond the last one
_local = threading.local()


def scratch(size: int) -> Tensor:
    """Return this thread's memory, float32 (at least size,), whose values the next call in the thread overwrites."""
    kept: Tensor | None = getattr(_local, "scratch", None)
    if kept is None or kept.numel() < size + _SLACK:
        with torch.inference_mode(False):
            kept = _local.scratch = torch.empty(size + _SLACK, dtype=torch.float32, device="cpu")
    return kept


def rows_of_tiles(tensors: tuple[Tensor, ...], shape: torch.Size, x: Tensor, block: int = 1) -> int:
    """Return the rows of each tile for a product of x (n, in) with a weight (rows, columns); 0 if tiles do not serve.

    Args:
        tensors: What the weight is stored as.
        shape: (rows, columns).
        x: (n, in).
        block: Values of the weight, a multiple of which each tile needs.
    """
    rows, columns = shape
    if choose(tensors[0].device, x.dtype, x.shape[0], rows, columns) is not Way.TILES:
        return 0
    if type(x) is not Tensor or not x.is_cpu or not in_memory(tensors) or (x.requires_grad and torch.is_grad_enabled()):
        return 0
    return tile_rows(columns, block // math.gcd(block, columns))


def multiply(
    fill: Fill, shape: torch.Size, step: int, x: Tensor, flip: bool, bias: Tensor | None, scale: Tensor | None = None
) -> Tensor:
    """Return x @ W.T + bias, or with `flip` x @ W + bias, for a weight W (rows, columns).

    Args:
        fill: Dequantizes rows of W.
        shape: (rows, columns).
        step: Rows of a tile.
        x: (n, columns), or with `flip` (n, rows).
        flip: Which product.
        bias: (rows,), or with `flip` (columns,).
        scale: float32 (rows,), by which the rows of W are multiplied that `fill` writes.

    Returns:
        (n, rows), or with `flip` (n, columns), in the dtype of x; computed in float32.
    """
    (rows, columns), n, dtype = shape, x.shape[0], x.dtype
    tile = scratch(step * columns)[: step * columns].view(step, columns)
    y = torch.empty(n, columns if flip else rows, dtype=torch.float32, device="cpu")
    if dtype is not torch.float32:
        x = x.float()
    if flip and scale is not None:
        x = x * scale
    single, result = (x[0], y[0]) if n == 1 else (x, y)
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        if stop - start < step:
            tile = tile[: stop - start]
        fill(tile, start, stop)
        # Into memory given, which autocast leaves alone.
        if flip and start:
            y.addmm_(x[:, start:stop], tile)
        elif flip:
            torch.mm(x[:, :stop], tile, out=y)
        elif n == 1:
            torch.mv(tile, single, out=result[start:stop])
        else:
            torch.mm(x, tile.t(), out=y[:, start:stop])
    if scale is not None and not flip:
        y *= scale
    if bias is not None:
        y += bias
    return y if dtype is torch.float32 else y.to(dtype)
