"""What the Triton operators take and what they return, without computing it: checks, and results of fake tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.errors import WeightError
from zoo.weights.triton.sizes import LARGEST_RANK

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise WeightError(message)


def _check_four_bit(
    packed: Tensor, scales: Tensor, scales2: Tensor | None, offset: Tensor | None, table: Tensor | None,
    levels: Tensor, size: int, block: int,
) -> None:  # fmt: skip
    _require(packed.dtype is torch.uint8, f"packed codes: expected uint8, got {packed.dtype}")
    _require(packed.numel() == (size + 1) // 2, f"expected {(size + 1) // 2} bytes of codes, got {packed.numel()}")
    _require(block >= 32 and block & (block - 1) == 0, f"block: expected a power of two from 32 on, got {block}")
    blocks = -(-size // block)
    _require(scales.numel() == blocks, f"expected {blocks} scales, got {scales.numel()}")
    _require(levels.shape == (16,), f"levels: expected shape (16,), got {tuple(levels.shape)}")
    if scales2 is None or offset is None or table is None:
        _require(scales2 is offset is table is None, "scales2, offset and table belong together")
        _require(scales.dtype is torch.float32, f"scales: expected float32, got {scales.dtype}")
        return
    _require(scales.dtype is torch.uint8, f"quantized scales: expected uint8, got {scales.dtype}")
    _require(scales2.numel() == -(-blocks // 256), f"expected {-(-blocks // 256)} second scales, got {scales2.numel()}")
    _require(table.shape == (256,), f"table: expected shape (256,), got {tuple(table.shape)}")


def _check_product(
    x: Tensor, inputs: int, outputs: int, bias: Tensor | None, hidden: Tensor | None, up: Tensor | None
) -> None:
    _require(x.dtype in DTYPES, f"x: expected float32, bfloat16 or float16, got {x.dtype}")
    _require(x.dim() == 2 and x.shape[1] == inputs, f"x: expected shape (rows, {inputs}), got {tuple(x.shape)}")
    _require(x.is_contiguous(), "x must be contiguous")
    if bias is not None:
        _require(bias.shape == (outputs,), f"bias: expected shape ({outputs},), got {tuple(bias.shape)}")
        _require(bias.is_contiguous(), "bias must be contiguous")
    _require((hidden is None) == (up is None), "hidden and up belong together")
    if hidden is not None and up is not None:
        rank = hidden.shape[-1]
        _require(rank <= LARGEST_RANK, f"expected a rank up to {LARGEST_RANK}, got {rank}")
        _require(
            hidden.shape == (x.shape[0], rank), f"hidden: expected {(x.shape[0], rank)}, got {tuple(hidden.shape)}"
        )
        _require(up.shape == (rank, outputs), f"up: expected shape {(rank, outputs)}, got {tuple(up.shape)}")
        _require(hidden.dtype is x.dtype and up.dtype is x.dtype, f"hidden and up: expected {x.dtype}, like x")
        _require(hidden.is_contiguous(), "hidden must be contiguous")


def four_bit_product(
    x: Tensor, packed: Tensor, scales: Tensor, scales2: Tensor | None, offset: Tensor | None, table: Tensor | None,
    levels: Tensor, bias: Tensor | None, hidden: Tensor | None, up: Tensor | None, scale: float,
    rows: int, columns: int, block: int, flip: bool,
) -> Tensor:  # fmt: skip
    """Check the arguments of `ops.four_bit_product`; return an empty result."""
    inputs, outputs = (rows, columns) if flip else (columns, rows)
    _require(columns % 2 == 0, f"expected an even number of columns, got {columns}")
    _check_four_bit(packed, scales, scales2, offset, table, levels, rows * columns, block)
    _check_product(x, inputs, outputs, bias, hidden, up)
    return x.new_empty((x.shape[0], outputs))


def int8_product(
    x: Tensor, values: Tensor, scales: Tensor, bias: Tensor | None, hidden: Tensor | None, up: Tensor | None,
    scale: float, flip: bool,
) -> Tensor:  # fmt: skip
    """Check the arguments of `ops.int8_product`; return an empty result."""
    _require(values.dtype is torch.int8 and values.dim() == 2, f"values: expected an int8 matrix, got {values.dtype}")
    _require(values.is_contiguous(), "values must be contiguous")
    rows, columns = values.shape
    _require(scales.dtype is torch.float32, f"scales: expected float32, got {scales.dtype}")
    _require(scales.numel() == rows, f"expected {rows} scales, got {scales.numel()}")
    inputs, outputs = (rows, columns) if flip else (columns, rows)
    _check_product(x, inputs, outputs, bias, hidden, up)
    return x.new_empty((x.shape[0], outputs))


def add_low_rank(y: Tensor, x: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """Check the arguments of `ops.add_low_rank`; return an empty result."""
    _require(down.dim() == 2 and up.dim() == 2, "down and up must be matrices")
    rank, outputs = up.shape
    _check_product(x, down.shape[0], outputs, None, None, None)
    _require(down.shape[1] == rank, f"down: expected {rank} columns, like the rows of up, got {down.shape[1]}")
    _require(rank <= LARGEST_RANK, f"expected a rank up to {LARGEST_RANK}, got {rank}")
    _require(y.shape == (x.shape[0], outputs), f"y: expected {(x.shape[0], outputs)}, got {tuple(y.shape)}")
    _require(y.is_contiguous(), "y must be contiguous")
    _require(y.dtype is down.dtype is up.dtype is x.dtype, f"y, down and up: expected {x.dtype}, like x")
    return x.new_empty((x.shape[0], rank))


def unpack_four_bit(
    packed: Tensor, scales: Tensor, scales2: Tensor | None, offset: Tensor | None, table: Tensor | None,
    levels: Tensor, shape: list[int], block: int, dtype: torch.dtype, channels_last: bool,
) -> Tensor:  # fmt: skip
    """Check the arguments of `ops.unpack_four_bit`; return an empty result."""
    out = _empty(packed, shape, dtype, channels_last)
    _check_four_bit(packed, scales, scales2, offset, table, levels, out.numel(), block)
    return out


def unpack_int8(values: Tensor, scales: Tensor, shape: list[int], dtype: torch.dtype, channels_last: bool) -> Tensor:
    """Check the arguments of `ops.unpack_int8`; return an empty result."""
    out = _empty(values, shape, dtype, channels_last)
    _require(values.dtype is torch.int8 and values.dim() == 2, f"values: expected an int8 matrix, got {values.dtype}")
    _require(values.numel() == out.numel(), f"expected {out.numel()} values, got {values.numel()}")
    _require(scales.numel() == values.shape[0], f"expected {values.shape[0]} scales, got {scales.numel()}")
    return out


def _empty(like: Tensor, shape: list[int], dtype: torch.dtype, channels_last: bool) -> Tensor:
    _require(dtype in DTYPES, f"dtype: expected float32, bfloat16 or float16, got {dtype}")
    _require(not channels_last or len(shape) in (4, 5), f"channels last needs 4 or 5 dimensions, got {len(shape)}")
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    order = formats[len(shape)] if channels_last else torch.contiguous_format
    return torch.empty(shape, dtype=dtype, device=like.device, memory_format=order)
