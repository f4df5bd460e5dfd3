"""How far a quantized weight is from the values that it was made from: measured at every quantization, cheaply."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from zoo.weights.codecs import pack
from zoo.weights.parts import PartOf
from zoo.weights.quantized_tensor import QuantizedTensor
from zoo.weights.scheme import Quantization

# Values dequantized at once on the CPU. The whole of a large weight would take new memory, which costs more than its
# arithmetic: on a busy core 16.8 million values in nf4 were measured in 63 ms in parts of this size, in 177 ms at once.
RUN = 1 << 18


def relative_error(stored: QuantizedTensor, weight: Tensor) -> float | None:
    """Return ‖stored − weight‖ / ‖weight‖; 0 for a weight of zeros that is stored as such.

    None on `meta`, and for values whose squares are beyond float32.

    Args:
        stored: The quantized weight.
        weight: What it was made from, of the same shape.
    """
    if weight.is_meta:
        return None
    error = total = torch.zeros((), dtype=torch.float64, device=weight.device)
    for dense, values in _pieces(stored, weight):
        off, flat = dense.sub_(values).view(-1), values.reshape(-1)
        error = error + torch.dot(off, off).double()
        total = total + torch.dot(flat, flat).double()
    if not float(total):
        return 0.0 if not float(error) else math.inf
    found = math.sqrt(float(error / total))
    return found if math.isfinite(found) else None


def _pieces(stored: QuantizedTensor, weight: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield parts of the weight, each dequantized and as it was, in float32 or wider."""
    dtype = torch.promote_types(weight.dtype, torch.float32)
    tensors, shape = stored.tensors(), torch.Size(weight.shape)
    entry = shape[1:].numel()
    step = max(1, RUN // max(entry, 1))
    if weight.device.type != "cpu" or not shape or step >= shape[0] or not hasattr(stored.codec, "part"):
        yield stored.codec.unpack(tensors, shape, dtype), weight.to(dtype)
        return
    for start in range(0, shape[0], step):
        stop = min(start + step, shape[0])
        size = torch.Size((stop - start, *shape[1:]))
        yield PartOf(stored.codec, shape, start, stop).unpack(tensors, size, dtype), weight[start:stop].to(dtype)


@functools.cache
def assumed_error(scheme: Quantization, dtype: torch.dtype = torch.float32) -> float:
    """Return the squared error of a scheme, relative to the squared values, of normally distributed ones."""
    values = torch.randn(64, 1024, generator=torch.Generator().manual_seed(0)).to(dtype)
    stored = pack(values, scheme, torch.float32)
    return float((stored() - values.float()).square().sum() / values.float().square().sum())
