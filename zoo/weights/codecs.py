"""zoo's own codecs: nf4 and fp4, row-wise int8, dynamic 8 bit, and stored floats, on bitsandbytes' kernels."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.errors import QuantizationError
from zoo.weights.packed import Packed
from zoo.weights.scheme import Quantization, unknown_scheme

SCALE_BLOCK = 256  # blocks of scales that share a second scale; bitsandbytes fixes it
CHUNK = 1 << 18  # values quantized at once: bounds the temporaries, and they stay in the cache
FLOATS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
KERNEL_TYPES = (torch.float32, torch.bfloat16, torch.float16)


_loaded = False  # and not functools.cache: torch.compile reads a flag, and would trace the import


def kernels():  # type: ignore[no-untyped-def]
    """``torch.ops.bitsandbytes``, imported when the first weight is packed or unpacked."""
    global _loaded
    if not _loaded:
        log = logging.getLogger("bitsandbytes.backends.cpu.ops")  # warns at import about an optional inference kernel
        level = log.level
        log.setLevel(logging.ERROR)
        try:
            import bitsandbytes  # noqa: F401
        finally:
            log.setLevel(level)
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
    """nf4 or fp4 in blocks. Tensors: packed, scales; with ``double``: packed, scales (8 bit), scales2, offset."""

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
        """Rows ``index`` (n,) of the weight seen as (rows, width) → (n, width), without unpacking the others.

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
        """Rows ``index`` (n,) → (n, width); None where the weight's own rows have another width."""
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
        """Rows ``index`` (n,) → (n, width)."""
        return tensors[0].view(-1, width)[index].to(dtype)


def pack(weight: Tensor, scheme: Quantization, dtype: torch.dtype | None = None) -> Packed:
    """Quantize one weight with a scheme of zoo's own, on the device where it lies.

    weight: any shape, floating point, finite. dtype: the type that comes out again (default: the weight's).
    Raises ``QuantizationError`` for a weight with NaN or Inf, an integer weight, and a scheme that is not zoo's.
    """
    if not scheme.builtin:
        raise unknown_scheme(scheme.scheme)
    if not weight.is_floating_point():
        raise QuantizationError(f"expected a floating-point weight to quantize, got {weight.dtype}")
    dtype = dtype or weight.dtype
    weight = weight.detach()
    name = str(scheme.scheme)
    if name in FLOATS:
        return Packed(StoredFloat(name, scheme.bits), weight.shape, dtype, {"values": weight.to(FLOATS[name])})
    if weight.device.type != "meta" and not bool(torch.isfinite(weight).all()):
        raise QuantizationError("the weight holds NaN or Inf and cannot be quantized")
    if name == "int8":
        return _pack_int8(weight, dtype)
    if name == "dynamic8":
        code = dynamic_map(weight.device)
        source = weight.contiguous() if weight.dtype in KERNEL_TYPES else weight.float().contiguous()
        values, scales = kernels().quantize_blockwise.default(source, code, scheme.block_size)
        return Packed(Dynamic8(scheme.block_size), weight.shape, dtype, {"values": values, "scales": scales})
    return _pack_four_bit(weight, dtype, scheme)


def _pack_int8(weight: Tensor, dtype: torch.dtype) -> Packed:
    leading = next((size for size in weight.shape if size != 1), 1)
    matrix = weight.reshape(leading, -1).float()
    scales = matrix.abs().amax(dim=1)
    values = torch.round(matrix * (127.0 / scales.clamp(min=1e-38)).unsqueeze(1)).to(torch.int8)
    return Packed(Int8Rows(), weight.shape, dtype, {"values": values, "scales": scales})


def _pack_four_bit(weight: Tensor, dtype: torch.dtype, scheme: Quantization) -> Packed:
    ops = kernels()
    name, block = str(scheme.scheme), scheme.block_size
    flat = weight.reshape(-1)
    if flat.dtype not in KERNEL_TYPES:
        flat = flat.float()
    if flat.device.type == "cpu" and flat.numel() > CHUNK:
        parts = [ops.quantize_4bit.default(part, block, name, torch.uint8) for part in flat.split(CHUNK)]
        packed = torch.cat([part[0] for part in parts])
        scales = torch.cat([part[1] for part in parts])
    else:
        packed, scales = ops.quantize_4bit.default(flat.contiguous(), block, name, torch.uint8)
    codec = FourBit(name, block, scheme.double)
    if not scheme.double:
        return Packed(codec, weight.shape, dtype, {"packed": packed, "scales": scales.float()})
    code = dynamic_map(weight.device)
    offset = scales.mean()
    scales8, scales2 = ops.quantize_blockwise.default(scales - offset, code, SCALE_BLOCK)
    tensors = {"packed": packed, "scales": scales8, "scales2": scales2, "offset": offset.view(1)}
    return Packed(codec, weight.shape, dtype, tensors)
