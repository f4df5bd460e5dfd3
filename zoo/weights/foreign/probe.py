"""Check by a small run that a layer computes what its stored tensors are taken for."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.weights.foreign.weight import tensor_of
from zoo.weights.quantized_tensor import QuantizedTensor

ROWS = 4  # rows of random inputs, or looked up
TOLERANCE = 0.1  # of the outputs' norm: another reading is off by its whole size, quantized activations by about .03


@torch.no_grad()
def agrees(layer: nn.Module, packed: QuantizedTensor, role: str) -> bool | None:
    """Return whether a layer's own forward pass is `role` with the weight `packed`.

    Args:
        layer: The layer, as its library made it.
        packed: What its weight is taken for.
        role: "linear" or "embedding".

    Returns:
        None if the layer does not run here, for want of a kernel.
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
            return False
        return bool((got.float() - expected).norm() <= TOLERANCE * expected.norm())
    return None
