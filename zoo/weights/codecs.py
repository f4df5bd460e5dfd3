"""Built-in codecs in 8, 16 and 32 bit: row-wise int8, dynamic 8 bit and stored floats; and `pack` for all schemes.

Notation for shapes:
    N       values in the weight
    blocks  ⌈N / block_size⌉, each with a scale of its own
    M, K    the weight seen as a matrix: its first dimension that is not 1, and all the others
    n       rows to look up
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.errors import QuantizationError
from zoo.weights.four_bit import SCALE_BLOCK, FourBit, quantize_four_bit, thresholds
from zoo.weights.kernels import KERNEL_DTYPES, dynamic_map, kernels, require_finite
from zoo.weights.native import library_for
from zoo.weights.quantized_tensor import Part, QuantizedTensor
from zoo.weights.readings import later, wide
from zoo.weights.rounding import kernel_of, round_convolution
from zoo.weights.scheme import Quantization, unknown_scheme
from zoo.weights.tiles import multiply, rows_of_tiles

CHUNK = 1 << 18  # values quantized to 8 bit at once: bounds the temporary tensors
FLOATS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class Int8Rows:
    """8 bit with one scale per row of the weight seen as a matrix.

    Tensors: values int8 (M, K), scales float32 (M,).
    """

    scheme: str = "int8"
    bits: int = 8

    def unpack(self, tensors: tuple[Tensor, ...], shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Return the dense weight; see `Codec.unpack`."""
        values, scales = tensors
        scaled = values.to(torch.promote_types(dtype, torch.float32)).mul_((scales / 127).unsqueeze(1))  # (M, K)
        return scaled.to(dtype).view(shape)

    def product(
        self, tensors: tuple[Tensor, ...], shape: torch.Size, x: Tensor, flip: bool = False, bias: Tensor | None = None
    ) -> Tensor | None:
        """Return x @ W.T + bias, or with `flip` x @ W + bias, without the dense weight; see `Codec`."""
        values, scales = tensors
        step = rows_of_tiles(tensors, shape, x)
        if not step or values.shape != shape:
            return None
        return multiply(lambda tile, *rows: tile.copy_(values[slice(*rows)]), shape, step, x, flip, bias, scales / 127)

    def rows(self, tensors: tuple[Tensor, ...], index: Tensor, width: int, dtype: torch.dtype) -> Tensor | None:
        """Return rows `index` (n,) as (n, width); None if the weight's rows have another width."""
        values, scales = tensors
        if values.shape[1] != width:
            return None
        return self.unpack((values[index], scales[index]), torch.Size((index.numel(), width)), dtype)

    def part(self, tensors: tuple[Tensor, ...], start: int, stop: int) -> Part | None:
        """Return the rows that are the values from `start` to `stop`; see `Codec`."""
        values, scales = tensors
        width = values.shape[1]
        if start % width or stop % width:
            return None
        rows = slice(start // width, stop // width)
        return Part(self, (values[rows], scales[rows]), 0, stop - start)


@dataclass(frozen=True)
class Dynamic8:
    """8 bit in blocks with a non-linear map (arXiv 1511.04561).

    Tensors: values uint8 (the weight's shape), scales float32 (blocks,).
    """

    block_size: int
    scheme: str = "dynamic8"
    bits: int = 8

    def unpack(self, tensors: tuple[Tensor, ...], shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Return the dense weight; see `Codec.unpack`."""
        values, scales = tensors
        code = dynamic_map(values.device)
        kernel_dtype = dtype if dtype in KERNEL_DTYPES else torch.float32
        flat = kernels().dequantize_blockwise.default(values, scales, code, self.block_size, kernel_dtype)
        return flat.view(shape).to(dtype)

    def product(
        self, tensors: tuple[Tensor, ...], shape: torch.Size, x: Tensor, flip: bool = False, bias: Tensor | None = None
    ) -> Tensor | None:
        """Return x @ W.T + bias, or with `flip` x @ W + bias, without the dense weight; see `Codec`."""
        columns, block = shape[1], self.block_size
        step = rows_of_tiles(tensors, shape, x, block)
        library = library_for(tensors) if step else None
        if library is None:
            return None
        function, code = library.dynamic8[torch.float32], dynamic_map(x.device)
        values, scales, levels = tensors[0].data_ptr(), tensors[1].data_ptr(), code.data_ptr()

        def fill(tile: Tensor, start: int, stop: int) -> None:
            first = start * columns
            function(levels, values + first, scales + first // block * 4, tile.data_ptr(), block, tile.numel())

        return multiply(fill, shape, step, x, flip, bias)

    def part(self, tensors: tuple[Tensor, ...], start: int, stop: int) -> Part:
        """Return the blocks that hold the values from `start` to `stop`; see `Codec`."""
        values, block = tensors[0].view(-1), self.block_size
        first, last = start // block, -(-stop // block)
        size = min(last * block, values.numel()) - first * block
        chosen = (values[first * block : first * block + size], tensors[1][first:last])
        return Part(self, chosen, start - first * block, size)


@dataclass(frozen=True)
class StoredFloat:
    """A weight stored in another float dtype than the one it computes in.

    Tensors: values (the weight's shape).
    """

    scheme: str
    bits: int

    def unpack(self, tensors: tuple[Tensor, ...], shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Return the dense weight; see `Codec.unpack`."""
        return tensors[0].to(dtype, copy=True).view(shape)

    def product(
        self, tensors: tuple[Tensor, ...], shape: torch.Size, x: Tensor, flip: bool = False, bias: Tensor | None = None
    ) -> Tensor | None:
        """Return x @ W.T + bias, or with `flip` x @ W + bias, without the dense weight; see `Codec`."""
        values = tensors[0].view(shape)
        if values.dtype is x.dtype:
            return F.linear(x, values.t() if flip else values, bias)
        step = rows_of_tiles(tensors, shape, x)
        if not step:
            return None
        return multiply(lambda tile, *rows: tile.copy_(values[slice(*rows)]), shape, step, x, flip, bias)

    def rows(self, tensors: tuple[Tensor, ...], index: Tensor, width: int, dtype: torch.dtype) -> Tensor | None:
        """Return rows `index` (n,) as (n, width)."""
        return tensors[0].view(-1, width)[index].to(dtype)

    def part(self, tensors: tuple[Tensor, ...], start: int, stop: int) -> Part:
        """Return the values from `start` to `stop`; see `Codec`."""
        return Part(self, (tensors[0].view(-1)[start:stop],), 0, stop - start)


def pack(weight: Tensor, scheme: Quantization, dtype: torch.dtype | None = None) -> QuantizedTensor:
    """Quantize one weight with a built-in scheme, on its own device.

    Args:
        weight: Any shape, floating point, finite.
        scheme: How to store it.
        dtype: The dtype of the dequantized weight; by default the weight's own.

    Raises:
        QuantizationError: the weight holds NaN, Inf or integers, or the scheme is not built in.
    """
    if not scheme.builtin:
        raise unknown_scheme(scheme.scheme)
    if not weight.is_floating_point():
        raise QuantizationError(f"expected a floating-point weight to quantize, got {weight.dtype}")
    dtype = dtype or weight.dtype
    weight = weight.detach()
    name = str(scheme.scheme)
    if name in FLOATS:
        # A copy even if the dtype is the same: the weight may be a view of a memory-mapped file.
        values = weight.to(FLOATS[name], copy=True, memory_format=torch.contiguous_format)
        _require_no_overflow(weight, values)
        return QuantizedTensor(StoredFloat(name, scheme.bits), weight.shape, dtype, {"values": values})
    if name == "int8":
        return _pack_int8(weight, dtype)
    if name == "dynamic8":
        code = dynamic_map(weight.device)
        source = weight.contiguous() if weight.dtype in KERNEL_DTYPES else weight.float().contiguous()
        require_finite(source)
        values, scales = kernels().quantize_blockwise.default(source, code, scheme.block_size)
        return QuantizedTensor(Dynamic8(scheme.block_size), weight.shape, dtype, {"values": values, "scales": scales})
    return _pack_four_bit(weight, dtype, scheme)


def _require_no_overflow(weight: Tensor, values: Tensor) -> None:
    """Raise `QuantizationError` if `values`, the weight in a narrower dtype, overflowed to Inf."""
    limit = torch.finfo(values.dtype).max
    if torch.finfo(weight.dtype).max <= 2 * limit or values.device.type == "meta" or not values.numel():
        return

    def known(extremes: list[float]) -> None:
        for cast, source in (extremes[:2], extremes[2:]):
            if math.isinf(cast) and math.isfinite(source):
                raise QuantizationError(
                    f"the weight holds {source:g}, beyond what {values.dtype} can hold ({limit:g}): "
                    "use scheme='bf16' or bits=32"
                )

    ends = (values.amax(), weight.amax(), values.amin(), weight.amin())
    later(torch.stack([end.to(weight.dtype) for end in ends]), known)


def _pack_int8(weight: Tensor, dtype: torch.dtype) -> QuantizedTensor:
    leading = next((size for size in weight.shape if size != 1), 1)
    matrix = weight.reshape(leading, weight.numel() // max(1, leading))  # (M, K)
    values = torch.empty(matrix.shape, dtype=torch.int8, device=weight.device)
    scales = torch.zeros(leading, dtype=torch.float32, device=weight.device)
    whole, off = torch.zeros((), dtype=wide(weight.device), device=weight.device), torch.zeros_like(scales)
    kernel = None if weight.is_meta or weight.shape[:1] != (leading,) else kernel_of(weight.shape)
    step = max(1, CHUNK // max(1, matrix.shape[1])) if weight.device.type == "cpu" else max(1, leading)
    for start in range(0, leading if weight.numel() else 0, step):
        part = matrix[start : start + step].float()  # (step, K)
        largest = torch.amax(part.abs(), dim=1, out=scales[start : start + step])  # (step,)
        scaled = part * (127.0 / largest.clamp(min=1e-36)).unsqueeze(1)  # (step, K)
        rounded = scaled.round() if kernel is None else round_convolution(scaled, kernel)
        values[start : start + step] = rounded
        # The error is measured here, where the values are in the cache: in steps of each row's scale.
        off[start : start + step] = torch.linalg.vector_norm(scaled.sub_(rounded), dim=1)
        whole += torch.dot(part.reshape(-1), part.reshape(-1))
    require_finite(scales)
    packed = QuantizedTensor(Int8Rows(), weight.shape, dtype, {"values": values, "scales": scales})

    def known(norms: list[float]) -> None:
        error, whole = norms
        packed.error = (error / math.sqrt(whole) if whole else 0.0) if math.isfinite(whole) else None

    if not weight.is_meta:  # squares of 1e20 are beyond float32
        packed.error = math.nan  # until it is known
        later(torch.stack((torch.linalg.vector_norm(off * (scales / 127)).to(whole.dtype), whole)), known)
    return packed


def _pack_four_bit(weight: Tensor, dtype: torch.dtype, scheme: Quantization) -> QuantizedTensor:
    ops = kernels()
    name, block = str(scheme.scheme), scheme.block_size
    flat = weight.reshape(-1)  # (N,)
    if flat.device.type == "cpu" and thresholds(name) is not None:
        packed, scales = quantize_four_bit(flat, block, name)
    else:
        if flat.dtype not in KERNEL_DTYPES:
            flat = flat.float()
        require_finite(flat)
        packed, scales = ops.quantize_4bit.default(flat.contiguous(), block, name, torch.uint8)
    codec = FourBit(name, block, scheme.double)
    if not scheme.double:
        return QuantizedTensor(codec, weight.shape, dtype, {"packed": packed, "scales": scales.float()})
    code = dynamic_map(weight.device)
    offset = scales.mean() if scales.numel() else scales.new_zeros(())
    scales8, scales2 = ops.quantize_blockwise.default(scales - offset, code, SCALE_BLOCK)  # shapes as in `FourBit`
    tensors = {"packed": packed, "scales": scales8, "scales2": scales2, "offset": offset.view(1)}
    return QuantizedTensor(codec, weight.shape, dtype, tensors)
