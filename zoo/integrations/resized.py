"""A checkpoint's weights for images of other sizes and channels: positions resized, kernels summed or repeated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.catalog.entry import Entry

Grid = tuple[int, int]  # rows and columns of patches


def resized(
    entry: Entry,
    tensors: Iterable[tuple[str, Tensor]],
    shapes: Mapping[str, tuple[int, ...]],
    grids: tuple[Grid, Grid] | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """Yield a checkpoint's tensors as a module for other images has them, where `entry.head` asks for other images.

    Args:
        entry: the model's.
        tensors: the checkpoint's, under the module's names.
        shapes: of the module's parameters and buffers.
        grids: how many patches an image had and is to have; None where the model has none.
    """
    head = entry.head
    for name, tensor in tensors:
        wanted = tuple(shapes.get(name, tensor.shape))
        if head is None or wanted == tuple(tensor.shape):
            yield name, tensor
        elif head.channels is not None and _differ(tensor, wanted) == [1] and tensor.dim() == 4:
            yield name, fit_channels(tensor, wanted[1])
        elif head.image_size is not None and grids is not None and _is_table(tensor, wanted, grids):
            yield name, fit_positions(tensor, *grids)
        else:
            yield name, tensor  # another head's, or one that does not fit, of which zoo says so


def fit_channels(kernels: Tensor, channels: int) -> Tensor:
    """Return a first layer's kernels [o, c, h, w] for another number of channels, as timm does it.

    For one channel they are summed; for others they are repeated and scaled by c / channels, so that what was the sum
    over the channels of one picture stays of its size.
    """
    before = kernels.shape[1]
    if channels == before:
        return kernels
    if channels == 1:
        return kernels.float().sum(1, keepdim=True).to(kernels.dtype)
    repeated = kernels.float().repeat(1, -(-channels // before), 1, 1)[:, :channels]
    return (repeated * (before / channels)).to(kernels.dtype)


def fit_positions(table: Tensor, before: Grid, after: Grid) -> Tensor:
    """Return learnt positions [1, p + n, d] or [p + n, d] for another grid of patches, resized bicubically as in timm.

    Args:
        table: of p further tokens in front, and n patches, row by row.
        before: rows and columns of the n patches.
        after: those that there are to be.
    """
    import torch
    from torch.nn import functional

    flat = table if table.dim() == 3 else table[None]
    count = before[0] * before[1]
    front, grid = flat[:, :-count].float(), flat[:, -count:].float()
    grid = grid.reshape(1, *before, -1).permute(0, 3, 1, 2)  # [1, d, rows, columns]
    grid = functional.interpolate(grid, size=after, mode="bicubic", antialias=True, align_corners=False)
    made = torch.cat([front, grid.permute(0, 2, 3, 1).flatten(1, 2)], 1).to(table.dtype)
    return made if table.dim() == 3 else made[0]


def _differ(tensor: Tensor, wanted: tuple[int, ...]) -> list[int]:
    """Return the dimensions in which two shapes differ; all of them if their number does."""
    if tensor.dim() != len(wanted):
        return list(range(max(tensor.dim(), len(wanted))))
    return [at for at, size in enumerate(wanted) if tensor.shape[at] != size]


def _is_table(tensor: Tensor, wanted: tuple[int, ...], grids: tuple[Grid, Grid]) -> bool:
    before, after = (rows * columns for rows, columns in grids)
    at = tensor.dim() - 2
    fits = _differ(tensor, wanted) == [at] and at in (0, 1) and (at == 0 or tensor.shape[0] == 1)
    return fits and 0 <= tensor.shape[at] - before == wanted[at] - after < 8
