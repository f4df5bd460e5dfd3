"""How each operation of torch sees a weight as matrices, and what the inputs of their columns are.

Notation for shapes:
    G     matrices, such as the groups of a convolution
    R, C  outputs and inputs of each
    n     positions: how many vectors of inputs there are
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 1 << 23  # values of patches that are unfolded at once

aten = torch.ops.aten
LOOKUPS = {aten.embedding.default, aten._embedding_bag.default, aten._embedding_bag_forward_only.default}
LOOKUPS |= {aten.index.Tensor, aten.index_select.default}


class Use(NamedTuple):
    """One use of a weight as matrices in a product.

    Attributes:
        operand: The position of the weight, or a view of it, among the operation's arguments.
        kind: What tells uses apart beside the operand's own view.
        matrices: Indices of the operand's values, in the operand's shape → the same as matrices (G, R, C).
        inputs: Yields the inputs, (G, C, n).
    """

    operand: int
    kind: Hashable
    matrices: Callable[[Tensor], Tensor]
    inputs: Callable[[], Iterator[Tensor]]


def uses(func: Any, args: tuple[Any, ...], is_weight: Callable[[Any], bool]) -> list[Use]:
    """Return how an operation uses the weights among its arguments; empty if not as matrices in a product.

    Args:
        func: of `torch.ops.aten`.
        args: its positional arguments.
        is_weight: whether an argument is a weight, or a view of one.
    """
    if func is aten.convolution.default:
        return [_convolution(args)] if is_weight(args[1]) and not is_weight(args[0]) else []
    first = FIRST.get(func)
    if first is None:
        return []
    left, right = args[first], args[first + 1]
    found = []
    if is_weight(left) and not is_weight(right):
        found.append(Use(first, "left", _stack, lambda: iter([_vectors(right)])))
    if is_weight(right) and not is_weight(left):
        if right.dim() == 1:
            found.append(Use(first + 1, "vector", lambda index: index[None, None], lambda: iter([left.mT[None]])))
        else:
            found.append(Use(first + 1, "right", lambda index: _stack(index).mT, lambda: iter([_stack(left).mT])))
    return found


# Products → the position of their first factor.
FIRST = {
    aten.mm.default: 0,
    aten.bmm.default: 0,
    aten.mv.default: 0,
    aten.addmm.default: 1,
    aten.baddbmm.default: 1,
    aten.addmv.default: 1,
}


def _stack(matrix: Tensor) -> Tensor:
    """Return one matrix as a stack of one."""
    return matrix if matrix.dim() == 3 else matrix[None]


def _vectors(x: Tensor) -> Tensor:
    """Return the second factor of a product as (G, C, n)."""
    return x[None, :, None] if x.dim() == 1 else _stack(x)


def _convolution(args: tuple[Any, ...]) -> Use:
    x, weight, _, stride, padding, dilation, transposed, output_padding, groups = args
    kernel = tuple(weight.shape[2:])

    def matrices(index: Tensor) -> Tensor:
        if not transposed:
            return index.reshape(groups, index.shape[0] // groups, -1)
        # (in, out / groups, *kernel) → (groups, out / groups, in / groups · kernel)
        grouped = index.reshape(groups, index.shape[0] // groups, index.shape[1], -1)
        return grouped.permute(0, 2, 1, 3).flatten(2)

    def inputs() -> Iterator[Tensor]:
        batch = x if x.dim() == len(kernel) + 2 else x[None]
        for sample in batch.split(1):
            if transposed:
                sample = _spread(sample, kernel, stride, padding, dilation, output_padding)
                yield from _patches(sample, kernel, [1] * len(kernel), dilation, groups, flip=True)
            else:
                sample = F.pad(sample, [n for size in reversed(_each(padding, kernel)) for n in (size, size)])
                yield from _patches(sample, kernel, _each(stride, kernel), dilation, groups)

    return Use(1, ("convolution", transposed, groups), matrices, inputs)


def _each(sizes: list[int], kernel: tuple[int, ...]) -> list[int]:
    """Return one size for each dimension of the kernel."""
    return list(sizes) * len(kernel) if len(sizes) == 1 else list(sizes)


def _spread(
    x: Tensor, kernel: tuple[int, ...], stride: list[int], padding: list[int], dilation: list[int], extra: list[int]
) -> Tensor:
    """Return what a transposed convolution's flipped kernel meets with stride 1: x between zeros."""
    stride, padding, dilation = (_each(sizes, kernel) for sizes in (stride, padding, dilation))
    extra = _each(extra, kernel)
    sizes = [(size - 1) * step + 1 for size, step in zip(x.shape[2:], stride, strict=True)]
    wide = x.new_zeros((*x.shape[:2], *sizes))
    wide[(slice(None), slice(None), *(slice(None, None, step) for step in stride))] = x
    pads: list[int] = []
    for size, spread, pad, end in reversed(list(zip(kernel, dilation, padding, extra, strict=True))):
        around = (size - 1) * spread - pad
        pads += [around, around + end]
    return F.pad(wide, pads)


def _patches(
    x: Tensor, kernel: tuple[int, ...], stride: list[int], dilation: list[int], groups: int, flip: bool = False
) -> Iterator[Tensor]:
    """Yield the patches of one padded sample (1, channels, *positions) that kernels meet, (groups, C, n)."""
    n, window = len(kernel), x[0]
    for axis, (size, step, spread) in enumerate(zip(kernel, stride, _each(dilation, kernel), strict=True)):
        window = window.unfold(1 + axis, (size - 1) * spread + 1, step)[..., ::spread]
    # (channels, *positions, *kernel) → (channels, *kernel, *positions)
    window = window.permute(0, *range(1 + n, 1 + 2 * n), *range(1, 1 + n))
    if flip:
        window = window.flip(*range(1, 1 + n))
    grouped = window.unflatten(0, (groups, -1))  # (groups, channels / groups, *kernel, *positions)
    rows = grouped.shape[2 + n]
    per_row = max(1, window.numel() // max(1, rows))
    step = max(1, CHUNK // per_row)
    for start in range(0, rows, step):
        part = grouped.narrow(2 + n, start, min(step, rows - start))
        yield part.flatten(2 + n).flatten(1, 1 + n)
