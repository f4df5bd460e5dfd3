"""How far a quantized weight is from the values that it was made from: measured at every quantization, cheaply."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from zoo.weights.codecs import pack
from zoo.weights.parts import PartOf
from zoo.weights.quantized_tensor import QuantizedTensor
from zoo.weights.readings import later, wide
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
    return None if weight.is_meta else _ratio(*_squares(stored, weight).tolist())


def measure_error(stored: QuantizedTensor, weight: Tensor, then: Callable[[], None] | None = None) -> None:
    """Set `stored.error` to `relative_error`, and call `then`: at once, or with other weights' (`readings.later`).

    Args:
        stored: the quantized weight.
        weight: what it was made from, of the same shape; `then` may hold it.
        then: what is to be done when the error is known.
    """

    def known(squares: list[float]) -> None:
        stored.error = _ratio(*squares)
        if then is not None:
            then()

    if not weight.is_meta:
        later(_squares(stored, weight), known, holds=0 if then is None else weight.nbytes)


def _squares(stored: QuantizedTensor, weight: Tensor) -> Tensor:
    """Return ‖stored − weight‖² and ‖weight‖², [2]."""
    error = total = torch.zeros((), dtype=wide(weight.device), device=weight.device)
    for dense, values in _pieces(stored, weight):
        off, flat = dense.sub_(values).view(-1), values.reshape(-1)
        error = error + torch.dot(off, off).to(error.dtype)
        total = total + torch.dot(flat, flat).to(total.dtype)
    return torch.stack((error, total))


def _ratio(error: float, total: float) -> float | None:
    if not total:
        return 0.0 if not error else math.inf
    found = math.sqrt(error / total) if math.isfinite(error / total) else math.inf
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
