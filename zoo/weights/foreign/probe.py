"""Find out by a small run which of several readings of its stored tensors a layer computes with."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.weights.foreign.weight import tensor_of
from zoo.weights.quantized_tensor import QuantizedTensor

ROWS = 4  # rows of random inputs, or looked up
TOLERANCE = 0.1  # of the outputs' norm: another reading is off by its whole size, quantized activations by about .03


def best(layer: nn.Module, readings: Sequence[tuple[QuantizedTensor, str]]) -> int | None:
    """Return the number of the reading (weight, role) that a layer's own forward pass computes; -1 if it is none.

    None if the layer does not run here, for want of a kernel.
    """
    errors = [error(layer, packed, role) for packed, role in readings]
    if all(one is None for one in errors):
        return None
    known = [math.inf if one is None else one for one in errors]
    least = min(range(len(known)), key=known.__getitem__)
    return least if known[least] <= TOLERANCE else -1


@torch.no_grad()
def error(layer: nn.Module, packed: QuantizedTensor, role: str) -> float | None:
    """Return how far a layer's own forward pass is from `role` with the weight `packed`, of the outputs' norm.

    Args:
        layer: The layer, as its library made it.
        packed: What its weight is taken for.
        role: "linear" or "embedding".

    Returns:
        The relative error; None if the layer does not run here.
    """
    dense = packed(torch.float32)
    device, bias = dense.device, tensor_of(layer, "bias")
    inputs: list[Tensor]
    if role == "embedding":
        inputs = [torch.arange(min(ROWS, dense.shape[0]), device=device)]
    else:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(ROWS, dense.shape[1], generator=generator).to(device)
        inputs = [x.to(dtype) for dtype in dict.fromkeys((packed.dtype, torch.float32, torch.bfloat16, torch.float16))]
    for x in inputs:
        try:
            got = layer.forward(x)
        except Exception:  # a missing kernel, another dtype expected: each layer raises errors of its own
            continue
        if role == "embedding":
            expected = F.embedding(x, dense)
        else:
            expected = F.linear(x.float(), dense, None if bias is None else bias.float())
        if not isinstance(got, Tensor) or got.shape != expected.shape:
            return math.inf
        return float((got.float() - expected).norm() / expected.norm().clamp(min=1e-30))
    return None
