"""Integers of 2 to 8 bits with one scale per block of weights, symmetric about zero.

A block of b weights with the largest magnitude m has 2^k levels, (c + ½) · m / 2^(k-1) for c from -2^(k-1) to
2^(k-1) - 1, so no weight is off by more than m / 2^k. Shapes: b weights in a block, k bits, g groups of eight codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import zoo
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Blocks:
    """How the stored tensors become a weight again; kept beside them."""

    bits: int
    block_size: int
    scheme: str = "sketch"

    def unpack(self, tensors: tuple[Tensor, ...], shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Return the dense weight; tensors: `planes` uint8 [g, k] and `scales` float32 [blocks, 1]."""
        planes, scales = tensors
        places = torch.arange(8, dtype=torch.uint8, device=planes.device)
        bits = (planes[:, None] >> places[:, None]) & 1  # [g, 8, k]
        codes = (bits << places[: self.bits]).sum(2, dtype=torch.uint8)  # [g, 8]
        levels = codes.view(-1, self.block_size).float() - (2 ** (self.bits - 1) - 0.5)
        return (levels * scales).flatten()[: shape.numel()].view(shape).to(dtype)


def pack(weight: Tensor, scheme: zoo.Quantization) -> zoo.QuantizedTensor:
    """Quantize a weight of any shape. Works on `meta` too: `zoo info --bits` builds models without weights.

    Raises:
        QuantizationError: there are no such bits or block sizes, or the weight is not finite.
    """
    if not 2 <= scheme.bits <= 8:
        raise zoo.QuantizationError(f"scheme 'sketch': expected 2 to 8 bits, got bits={scheme.bits}")
    if scheme.block_size < 8 or scheme.block_size % 8:
        raise zoo.QuantizationError(f"scheme 'sketch': expected a multiple of 8, got block_size={scheme.block_size}")
    flat = weight.detach().float().flatten()
    if not flat.is_meta and not flat.isfinite().all():
        raise zoo.QuantizationError("the weight holds NaN or Inf and cannot be quantized")
    blocks = F.pad(flat, (0, -flat.numel() % scheme.block_size)).view(-1, scheme.block_size)
    half = 2 ** (scheme.bits - 1)
    scales = blocks.abs().amax(1, keepdim=True) / half
    levels = (blocks / scales.clamp(min=torch.finfo(torch.float32).tiny)).floor().clamp(-half, half - 1)
    codes = (levels + half).to(torch.uint8).view(-1, 8, 1)  # [g, 8, 1]
    places = torch.arange(8, dtype=torch.uint8, device=codes.device)
    bits = (codes >> places[: scheme.bits]) & 1  # [g, 8, k]
    planes = (bits << places[:, None]).sum(1, dtype=torch.uint8)  # eight weights' k-th bits in one byte: [g, k]
    codec = Blocks(scheme.bits, scheme.block_size)
    return zoo.QuantizedTensor(codec, weight.shape, weight.dtype, {"planes": planes, "scales": scales})
