"""HQQ's codes, scales and zeros of a weight as plain tensors, and back (https://dropbox.github.io/hqq_blog).

The weight is taken as a flat row of values, whatever its shape, cut into groups of `block_size`. Group g stores codes
c in 0 … 2^bits - 1, and w ≈ (c - zero_g) · scale_g. The library finds scale and zero (`hqq.core.quantize.Quantizer`)
and packs the codes (`hqq.core.bitpack`); nothing of it but those two is used, and none of its layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hqq.core.quantize import Quantizer
from torch import Tensor
from torch.nn import functional as F

import zoo

BITS = (2, 3, 4, 8)  # what the library stores in so many bits (its 5 and 6 take a byte each) and what is of use
ROWS = {2: 4, 3: 10, 4: 2, 8: 1}  # groups that share a packed row
CHUNK = 1 << 20  # values quantized at once: bounds the temporaries, which are about eight times as large
SECOND = 128  # scales, and zeros, that share a second scale and zero


@dataclass(frozen=True)
class HQQ:
    """The codec of a weight.

    Its tensors are the codes, then scale and zero, float32; with `double` each of the two is 8 bit with a `_range`
    [blocks, 2] of its own: the lowest value of each block of 128 and the step, the scales' as logarithms.

    Attributes:
        bits: of a code.
        block_size: values that share scale and zero.
        double: whether scales and zeros are 8 bit.
        scheme: the plugin's name.
    """

    bits: int
    block_size: int
    double: bool
    scheme: str = "hqq"

    def unpack(self, tensors: tuple[Tensor, ...], shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Return the dense weight of `shape`, computed in float32 or better."""
        codes = tensors[0]
        scale, zero = self.scales(tensors[1:])
        wide = torch.promote_types(dtype, torch.float32)
        values = Quantizer.unpack[Quantizer.bit_to_packing[self.bits]](codes, dtype=wide)[: scale.shape[0]]
        values = (values - zero[:, None].to(wide)) * scale[:, None].to(wide)  # [groups, block]
        return values.view(-1)[: shape.numel()].view(shape).to(dtype)

    def scales(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return scale and zero of every group, float32 [groups]."""
        if not self.double:
            return tensors[0], tensors[1]
        scale, scale_range, zero, zero_range = tensors
        return _from_bytes(scale, scale_range).exp2(), _from_bytes(zero, zero_range)


def quantize(weight: Tensor, scheme: zoo.Quantization) -> zoo.QuantizedTensor:
    """Quantize any weight to 2, 3, 4 or 8 bit. Called only if `scheme.scheme` is this plugin's name."""
    return pack(weight, scheme.bits, scheme.block_size, scheme.double)


def pack(weight: Tensor, bits: int, block_size: int, double: bool) -> zoo.QuantizedTensor:
    """Quantize a weight of any shape on its own device.

    Args:
        weight: the weight.
        bits: of a code.
        block_size: values that share scale and zero.
        double: whether scales and zeros are stored in 8 bit.

    Raises:
        zoo.QuantizationError: the library does not store so many bits, or the weight has integers, NaN or Inf.
    """
    if bits not in BITS:
        raise zoo.QuantizationError(f"scheme 'hqq' stores {', '.join(map(str, BITS))} bits, got bits={bits}")
    if isinstance(block_size, bool) or not isinstance(block_size, int) or block_size < 8:
        raise zoo.QuantizationError(f"block_size: expected a whole number of at least 8, got {block_size!r}")
    if not weight.is_floating_point():
        raise zoo.QuantizationError(f"expected a floating-point weight to quantize, got {weight.dtype}")
    codec = HQQ(bits, block_size, double)
    weight = weight.detach()
    if weight.is_meta:
        return zoo.QuantizedTensor(codec, weight.shape, weight.dtype, _on_meta(codec, weight.numel()))
    flat = weight.reshape(-1).float()
    if not bool(torch.isfinite(flat).all()):
        raise zoo.QuantizationError("the weight holds NaN or Inf and cannot be quantized")
    # The last value again where the last group is not full: it must not widen the group's range.
    short = -flat.numel() % block_size
    groups = torch.cat([flat, flat[-1:].expand(short)]).view(-1, block_size) if short else flat.view(-1, block_size)
    scale, zero = _fit(groups, bits)
    tensors = {"scale": scale, "zero": zero}
    if double:
        scale8, scale_range = _to_bytes(scale.log2())
        zero8, zero_range = _to_bytes(zero)
        tensors = {"scale": scale8, "scale_range": scale_range, "zero": zero8, "zero_range": zero_range}
    # Codes for the scales as they are stored, so that rounding those costs very little.
    scale, zero = codec.scales(tuple(tensors.values()))
    codes = torch.empty(groups.shape[0] + -groups.shape[0] % ROWS[bits], block_size, dtype=torch.uint8)
    codes = codes.to(flat.device).zero_()
    for rows, part in _chunks(groups):
        codes[rows] = (part / scale[rows, None] + zero[rows, None]).round_().clamp_(0, 2**bits - 1).to(torch.uint8)
    packed = Quantizer.pack[Quantizer.bit_to_packing[bits]](codes)
    return zoo.QuantizedTensor(codec, weight.shape, weight.dtype, {"codes": packed, **tensors})


def _fit(groups: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return scale and zero of each row of `groups` [n, block], float32 [n], by the library's half-quadratic solver.

    Its thresholds are absolute and would flatten weights below 1e-4, so every group is brought to a largest value of
    1 first. A zero at the end of each keeps its zero point within the codes, and so within a byte.
    """
    largest = groups.abs().amax(1, keepdim=True)  # [n, 1]
    largest = torch.where(largest > 0, largest, largest.amax().clamp(min=1e-30))
    found = []
    for rows, part in _chunks(groups):
        scaled = F.pad(part / largest[rows], (0, 1))
        _, meta = Quantizer.quantize(
            scaled, nbits=bits, group_size=scaled.shape[1], axis=1, bitpack=False, device=str(groups.device)
        )
        # Copies: what the library returns was made in inference mode, and cannot be used in training.
        found.append((meta["scale"].float() * largest[rows], meta["zero"].float().clone()))
    return torch.cat([scale for scale, _ in found]).view(-1), torch.cat([zero for _, zero in found]).view(-1)


def _chunks(groups: Tensor) -> list[tuple[slice, Tensor]]:
    size = max(1, CHUNK // groups.shape[1])
    slices = [slice(start, min(start + size, len(groups))) for start in range(0, len(groups), size)]
    return [(rows, groups[rows]) for rows in slices]


def _to_bytes(values: Tensor) -> tuple[Tensor, Tensor]:
    """Map values [n] to 8-bit codes [n] and, for each block of 128, the lowest value and the step [blocks, 2]."""
    short = -values.shape[0] % SECOND
    blocks = torch.cat([values, values[-1:].expand(short)]).view(-1, SECOND)
    low, high = blocks.amin(1, keepdim=True), blocks.amax(1, keepdim=True)
    step = ((high - low) / 255).clamp(min=1e-12)
    codes = ((blocks - low) / step).round_().clamp_(0, 255).to(torch.uint8)
    return codes.view(-1)[: values.shape[0]].clone(), torch.cat([low, step], dim=1)


def _from_bytes(codes: Tensor, ranges: Tensor) -> Tensor:
    low, step = ranges.repeat_interleave(SECOND, dim=0)[: codes.shape[0]].unbind(1)
    return codes * step + low


def _on_meta(codec: HQQ, values: int) -> dict[str, Tensor]:
    """Return empty tensors of the shapes that `pack` gives a weight of so many values."""
    groups = -(-values // codec.block_size)
    rows = -(-groups // ROWS[codec.bits])
    kind = torch.int32 if codec.bits == 3 else torch.uint8
    shapes = {"codes": ((rows, codec.block_size), kind)}
    if codec.double:
        for name in ("scale", "zero"):
            shapes |= {name: ((groups,), torch.uint8), f"{name}_range": ((-(-groups // SECOND), 2), torch.float32)}
    else:
        shapes |= {"scale": ((groups,), torch.float32), "zero": ((groups,), torch.float32)}
    return {name: torch.empty(shape, dtype=dtype, device="meta") for name, (shape, dtype) in shapes.items()}
