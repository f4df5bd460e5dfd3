"""zoo's own codecs: nf4 and fp4, row-wise int8, dynamic 8 bit, and stored floats, on bitsandbytes' kernels."""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.errors import QuantizationError
from zoo.weights.quantized_tensor import QuantizedTensor
from zoo.weights.scheme import Quantization, unknown_scheme

SCALE_BLOCK = 256  # blocks of scales that share a second scale; bitsandbytes fixes it
CHUNK = 1 << 18  # values quantized to 8 bit at once: bounds the temporaries
PIECE = 1 << 16  # values quantized to 4 bit at once: a multiple of every block size, and stays in the cache
FLOATS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
KERNEL_TYPES = (torch.float32, torch.bfloat16, torch.float16)

# diffusers imports bitsandbytes as well, and at every import that warns of an optional kernel package.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

_loaded = False  # and not functools.cache: torch.compile reads a flag, and would trace the import


def kernels():  # type: ignore[no-untyped-def]
    """`torch.ops.bitsandbytes`, imported when the first weight is packed or unpacked."""
    global _loaded
    if not _loaded:
        import bitsandbytes  # noqa: F401

        _loaded = True
    return torch.ops.bitsandbytes


_MAPS: dict[torch.device, Tensor] = {}  # a plain dict: torch.compile reads it as it is


def dynamic_map(device: torch.device) -> Tensor:
    """The 256 values of bitsandbytes' dynamic 8-bit type, float32, made once per device."""
    code = _MAPS.get(device)
    if code is None:
        kernels()
        from bitsandbytes.functional import create_dynamic_map

        code = _MAPS[device] = create_dynamic_map().to(device)
    return code


@dataclass(frozen=True)
class FourBit:
    """nf4 or fp4 in blocks. Tensors: packed, scales; with `double`: packed, scales (8 bit), scales2, offset."""

    scheme: str
    block_size: int
    double: bool
    bits: int = 4

    def unpack(self, tensors: tuple[Tensor, ...], shape: torch.Size, dtype: torch.dtype) -> Tensor:
        ops = kernels()
        if self.double:
            packed, scales8, scales2, offset = tensors
            code = dynamic_map(packed.device)
            scales = ops.dequantize_blockwise.default(scales8, scales2, code, SCALE_BLOCK, torch.float32) + offset
        else:
            packed, scales = tensors
        block = self.block_size
        if block >= 2048 and packed.device.type == "cpu":
            # bitsandbytes leaves its kernel for these on AVX-512; the same scale twice over is the same weight.
            scales = scales.repeat_interleave(block // 1024)
            block = 1024
        kernel_type = dtype if dtype in KERNEL_TYPES else torch.float32
        # A flat, even length keeps the kernel on its fast path whatever the weight's own shape is.
        flat = ops.dequantize_4bit.default(packed, scales, block, self.scheme, (1, packed.numel() * 2), kernel_type)
        size = shape.numel()
        flat = flat.view(-1)
        if flat.numel() != size:
            flat = flat[:size]
        return flat.view(shape) if kernel_type is dtype else flat.view(shape).to(dtype)

    def rows(self, tensors: tuple[Tensor, ...], index: Tensor, width: int, dtype: torch.dtype) -> Tensor | None:
        """Rows `index` (n,) of the weight seen as (rows, width) → (n, width), without unpacking the others.

        None where rows do not start at block boundaries.
        """
        if width % self.block_size:
            return None
        ops = kernels()
        packed = tensors[0].view(-1, width // 2)[index].reshape(-1, 1)
        blocks = width // self.block_size
        which = (index[:, None] * blocks + torch.arange(blocks, device=index.device)).view(-1)
        if self.double:
            _, scales8, scales2, offset = tensors
            scales = dynamic_map(packed.device)[scales8[which].int()] * scales2[which // SCALE_BLOCK] + offset
        else:
            scales = tensors[1][which]
        block = self.block_size
        if block >= 2048 and packed.device.type == "cpu":
            scales, block = scales.repeat_interleave(block // 1024), 1024
        kernel_type = dtype if dtype in KERNEL_TYPES else torch.float32
        flat = ops.dequantize_4bit.default(packed, scales, block, self.scheme, (1, packed.numel() * 2), kernel_type)
        return flat.view(index.numel(), width).to(dtype)


@dataclass(frozen=True)
class Int8Rows:
    """8 bit with one float32 scale per row of the weight seen as a matrix. Tensors: values (int8), scales."""

    scheme: str = "int8"
    bits: int = 8

    def unpack(self, tensors: tuple[Tensor, ...], shape: torch.Size, dtype: torch.dtype) -> Tensor:
        values, scales = tensors
        wide = torch.promote_types(dtype, torch.float32)
        return (values.to(wide) * (scales / 127).unsqueeze(1)).to(dtype).view(shape)

    def rows(self, tensors: tuple[Tensor, ...], index: Tensor, width: int, dtype: torch.dtype) -> Tensor | None:
        """Rows `index` (n,) → (n, width); None where the weight's own rows have another width."""
        values, scales = tensors
        if values.shape[1] != width:
            return None
        return self.unpack((values[index], scales[index]), torch.Size((index.numel(), width)), dtype)


@dataclass(frozen=True)
class Dynamic8:
    """8 bit in blocks with a non-linear map (arXiv 1511.04561). Tensors: values (uint8), scales."""

    block_size: int
    scheme: str = "dynamic8"
    bits: int = 8

    def unpack(self, tensors: tuple[Tensor, ...], shape: torch.Size, dtype: torch.dtype) -> Tensor:
        values, scales = tensors
        code = dynamic_map(values.device)
        kernel_type = dtype if dtype in KERNEL_TYPES else torch.float32
        flat = kernels().dequantize_blockwise.default(values, scales, code, self.block_size, kernel_type)
        return flat.view(shape).to(dtype)


@dataclass(frozen=True)
class StoredFloat:
    """A weight kept in another float type than the one it computes in. Tensors: values."""

    scheme: str
    bits: int

    def unpack(self, tensors: tuple[Tensor, ...], shape: torch.Size, dtype: torch.dtype) -> Tensor:
        return tensors[0].to(dtype, copy=True)

    def rows(self, tensors: tuple[Tensor, ...], index: Tensor, width: int, dtype: torch.dtype) -> Tensor | None:
        """Rows `index` (n,) → (n, width)."""
        return tensors[0].view(-1, width)[index].to(dtype)


def pack(weight: Tensor, scheme: Quantization, dtype: torch.dtype | None = None) -> QuantizedTensor:
    """Quantize one weight with a scheme of zoo's own, on the device where it lies.

    weight: any shape, floating point, finite. dtype: the type that comes out again (default: the weight's).
    Raises `QuantizationError` for a weight with NaN or Inf, an integer weight, and a scheme that is not zoo's.
    """
    if not scheme.builtin:
        raise unknown_scheme(scheme.scheme)
    if not weight.is_floating_point():
        raise QuantizationError(f"expected a floating-point weight to quantize, got {weight.dtype}")
    dtype = dtype or weight.dtype
    weight = weight.detach()
    name = str(scheme.scheme)
    if name in FLOATS:
        # A copy even where the type is the same: the weight may be a view of a mapped file.
        values = weight.to(FLOATS[name], copy=True, memory_format=torch.contiguous_format)
        _require_room(weight, values)
        return QuantizedTensor(StoredFloat(name, scheme.bits), weight.shape, dtype, {"values": values})
    if name == "int8":
        return _pack_int8(weight, dtype)
    if name == "dynamic8":
        code = dynamic_map(weight.device)
        source = weight.contiguous() if weight.dtype in KERNEL_TYPES else weight.float().contiguous()
        _require_finite(source)
        values, scales = kernels().quantize_blockwise.default(source, code, scheme.block_size)
        return QuantizedTensor(Dynamic8(scheme.block_size), weight.shape, dtype, {"values": values, "scales": scales})
    return _pack_four_bit(weight, dtype, scheme)


def _require_finite(values: Tensor) -> None:
    """Raise `QuantizationError` for NaN and Inf. No temporary: both show in the extremes."""
    if values.device.type == "meta" or not values.numel():
        return
    if not bool(torch.isfinite(values.amax()) & torch.isfinite(values.amin())):
        raise QuantizationError("the weight holds NaN or Inf and cannot be quantized")


def _require_room(weight: Tensor, values: Tensor) -> None:
    """Raise `QuantizationError` where `values`, the weight in a narrower type, ran over into Inf."""
    limit = torch.finfo(values.dtype).max
    if torch.finfo(weight.dtype).max <= 2 * limit or values.device.type == "meta" or not values.numel():
        return
    for found, source in ((values.amax(), weight.amax()), (values.amin(), weight.amin())):
        if bool(torch.isinf(found) & torch.isfinite(source)):
            raise QuantizationError(
                f"the weight holds {source.item():g}, beyond what {values.dtype} can hold ({limit:g}): "
                "use scheme='bf16' or bits=32"
            )


def _pack_int8(weight: Tensor, dtype: torch.dtype) -> QuantizedTensor:
    leading = next((size for size in weight.shape if size != 1), 1)
    matrix = weight.reshape(leading, weight.numel() // max(1, leading))
    values = torch.empty(matrix.shape, dtype=torch.int8, device=weight.device)
    scales = torch.zeros(leading, dtype=torch.float32, device=weight.device)
    step = max(1, CHUNK // max(1, matrix.shape[1])) if weight.device.type == "cpu" else max(1, leading)
    for start in range(0, leading if weight.numel() else 0, step):
        part = matrix[start : start + step].float()
        largest = torch.amax(part.abs(), dim=1, out=scales[start : start + step])
        scaled = part * (127.0 / largest.clamp(min=1e-36)).unsqueeze(1)
        values[start : start + step] = scaled.round_()
    _require_finite(scales)
    return QuantizedTensor(Int8Rows(), weight.shape, dtype, {"values": values, "scales": scales})


def _pack_four_bit(weight: Tensor, dtype: torch.dtype, scheme: Quantization) -> QuantizedTensor:
    ops = kernels()
    name, block = str(scheme.scheme), scheme.block_size
    flat = weight.reshape(-1)
    if flat.device.type == "cpu" and _thresholds(name) is not None:
        packed, scales = _quantize_four_bit(flat, block, name)
    else:
        if flat.dtype not in KERNEL_TYPES:
            flat = flat.float()
        _require_finite(flat)
        packed, scales = ops.quantize_4bit.default(flat.contiguous(), block, name, torch.uint8)
    codec = FourBit(name, block, scheme.double)
    if not scheme.double:
        return QuantizedTensor(codec, weight.shape, dtype, {"packed": packed, "scales": scales.float()})
    code = dynamic_map(weight.device)
    offset = scales.mean() if scales.numel() else scales.new_zeros(())
    scales8, scales2 = ops.quantize_blockwise.default(scales - offset, code, SCALE_BLOCK)
    tensors = {"packed": packed, "scales": scales8, "scales2": scales2, "offset": offset.view(1)}
    return QuantizedTensor(codec, weight.shape, dtype, tensors)


def _quantize_four_bit(flat: Tensor, block: int, name: str) -> tuple[Tensor, Tensor]:
    """bitsandbytes' `quantize_4bit` of a flat tensor on the CPU, bit for bit, about 20 times as fast.

    A value's code is the number of thresholds below it. Counting them one threshold after the other, on pieces that
    stay in the cache, beats a search per value; and numpy's comparisons, unlike torch's, write bytes at full speed.
    """
    import numpy as np

    thresholds, pairs = _thresholds(name)  # type: ignore[misc]
    n, whole = flat.numel(), flat.numel() // block * block
    packed = torch.empty((n + 1) // 2, 1, dtype=torch.uint8)
    scales = torch.empty(-(-n // block), dtype=torch.float32)
    size = min(whole, PIECE)
    scaled, above = torch.empty(size), np.empty(size, dtype=np.bool_)
    counts = np.empty(size, dtype=np.uint8)
    for start in range(0, whole, PIECE):
        stop = min(start + PIECE, whole)
        part = flat[start:stop].float().view(-1, block)
        largest = torch.amax(part.abs(), dim=1, out=scales[start // block : stop // block])
        _require_finite(largest)
        target = scaled[: stop - start].view(-1, block)
        torch.mul(part, (1.0 / largest.clamp(min=1e-38)).unsqueeze(1), out=target)
        values, here, count = target.view(-1).numpy(), above[: stop - start], counts[: stop - start]
        count[:] = 0
        for threshold in thresholds:
            np.greater(values, threshold, out=here)
            np.add(count, here.view(np.uint8), out=count)
        # Two codes to a byte, the first in the upper half.
        two = count.view("<u2")
        joined = ((two << 4) | (two >> 8)).astype(np.uint8)
        packed[start // 2 : stop // 2, 0] = torch.from_numpy(joined if pairs is None else pairs.take(joined))
    if whole < n:  # the last block, which is not full, is scaled in a way of its own
        rest = flat[whole:].float()
        _require_finite(rest)
        packed[whole // 2 :], scales[whole // block :] = kernels().quantize_4bit.default(rest, block, name, torch.uint8)
    return packed, scales


@functools.cache
def _thresholds(name: str) -> tuple[Any, Any] | None:
    """Of a 4-bit type: the 15 thresholds between its values in ascending order, and what a byte of two ranks becomes.

    The second is None where the ranks are the codes (nf4). The whole is None if bitsandbytes, asked about the values
    on and just beside every threshold, places any of them elsewhere.
    """
    import numpy as np

    ops = kernels()
    from bitsandbytes.functional import get_4bit_type

    code = get_4bit_type(name, device="cpu")
    order = torch.argsort(code)
    middle = (code[order[:-1]] + code[order[1:]]) / 2
    far = torch.full_like(middle, 2.0)
    probe = torch.cat([torch.ones(1), middle, torch.nextafter(middle, far), torch.nextafter(middle, -far)])
    probe = torch.nn.functional.pad(probe, (0, 64 - probe.numel()))
    expected, _ = ops.quantize_4bit.default(probe, 64, name, torch.uint8)
    ranks = (probe[:, None] > middle).sum(1)
    codes = order[ranks].to(torch.uint8)
    if not torch.equal(codes[::2] << 4 | codes[1::2], expected.view(-1)):
        return None
    identity = bool((order == torch.arange(16)).all())
    both = np.arange(256)
    table = order.numpy().astype(np.uint8)
    return list(middle.numpy()), None if identity else table[both >> 4] << 4 | table[both & 15]
