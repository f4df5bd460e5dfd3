"""The levels of each format: what a stored code stands for, and the scale that it is multiplied with."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from zoo.weights.codecs import Dynamic8, Int8Rows
from zoo.weights.four_bit import FourBit
from zoo.weights.kernels import dynamic_map, kernels
from zoo.weights.quantized_tensor import QuantizedTensor


class Grid(NamedTuple):
    """The values that a format can store: a level times the scale of the value's block.

    Ranks count the levels from the lowest on; they are what rounding chooses.

    Attributes:
        levels: Ascending, float32 (levels,).
        codes: The stored code of each rank, uint8 or int8 (levels,).
        scales: One for each block, float32 (blocks,).
        block: How many values, in the order of memory, share a scale.
    """

    levels: Tensor
    codes: Tensor
    scales: Tensor
    block: int


def grid_of(packed: QuantizedTensor) -> Grid | None:
    """Return the grid of a quantized weight; None for a format that is not known here, such as a plugin's."""
    codec, tensors = packed.codec, packed.tensors()
    device = tensors[0].device
    if isinstance(codec, FourBit):
        kernels()
        from bitsandbytes.functional import get_4bit_type

        code = get_4bit_type(codec.scheme, device=device).float()
        levels, order = torch.sort(code, stable=True)
        return Grid(levels, order.to(torch.uint8), codec.scales(tensors), codec.block_size)
    if isinstance(codec, Int8Rows):
        codes = torch.arange(-127, 128, device=device)
        return Grid(codes.float(), codes.to(torch.int8), tensors[1] / 127, max(1, tensors[0].shape[1]))
    if isinstance(codec, Dynamic8):
        levels, order = torch.sort(dynamic_map(device), stable=True)
        return Grid(levels, order.to(torch.uint8), tensors[1], codec.block_size)
    return None


def ranks_of(packed: QuantizedTensor, grid: Grid) -> Tensor:
    """Return the ranks that a quantized weight holds now, uint8 (N,), in the order of memory."""
    stored, size = packed.tensors()[0].reshape(-1), packed.shape.numel()
    if isinstance(packed.codec, FourBit):
        stored = torch.stack([stored >> 4, stored & 15], dim=1).view(-1)[:size]  # the first of a pair is the upper half
    if stored.dtype == torch.int8:
        return (stored.short() + 127).to(torch.uint8)
    rank_of_code = torch.empty(len(grid.codes), dtype=torch.uint8, device=stored.device)
    rank_of_code[grid.codes.long()] = torch.arange(len(grid.codes), dtype=torch.uint8, device=stored.device)
    return rank_of_code[stored.long()]


def with_ranks(packed: QuantizedTensor, grid: Grid, ranks: Tensor) -> QuantizedTensor:
    """Return the weight in the same format and with the same scales, with the ranks uint8 (N,) in place of its own."""
    first, *others = packed.tensors()
    codes = grid.codes[ranks.long()]
    if isinstance(packed.codec, FourBit):
        if len(codes) % 2:  # the half byte after the last value stays what the codec makes it
            codes = torch.cat([codes, (first.view(-1)[-1:] & 15)])
        codes = codes[::2] << 4 | codes[1::2]
    tensors = dict(zip(packed.names, (codes.view(first.shape), *others), strict=True))
    return QuantizedTensor(packed.codec, packed.shape, packed.dtype, tensors)
