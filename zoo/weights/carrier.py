"""A quantized weight in the place of a checkpoint's dense tensor: it passes through code that renames tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.weights.quantized_tensor import QuantizedTensor

_PACKED = "_zoo_packed"


def carry(packed: QuantizedTensor) -> Tensor:
    """Return a tensor without values, of the weight's shape and dtype, that carries the quantized weight."""
    tensor = torch.empty(packed.shape, dtype=packed.dtype, device="meta")
    setattr(tensor, _PACKED, packed)
    return tensor


def carried(tensor: Tensor) -> QuantizedTensor | None:
    """Return the quantized weight that a tensor carries; None for an ordinary tensor."""
    return getattr(tensor, _PACKED, None)
