"""One training step of a model on `meta`: what it keeps for the backward pass, its peak, its operations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from zoo.errors import TuningError
from zoo.model import Model
from zoo.planning.hollow import Meter, hollow
from zoo.torch_state.rng import preserve_rng

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Step:
    """What one step takes beside weights and optimizer; of several kinds of steps the most.

    Attributes:
        activations: bytes that the forward pass keeps for the backward pass.
        peak: the most bytes at once, the batch, activations, gradients and temporary tensors.
        flops: floating-point operations of products and convolutions, forward and backward, of the first.
    """

    activations: int
    peak: int
    flops: int


def measure(model: Model, batches: Sequence[Any]) -> Step:
    """Run the model's own loss and its backward pass once for each batch, without values.

    Args:
        model: on `meta`; it cannot be used for anything else afterwards.
        batches: as the model's `batches` make them, with values.

    Raises:
        TuningError: the loss depends on values of the weights, or on an operation that runs on values alone.
    """
    mode = hollow(model.module)
    model.adapter_set.device = _CPU
    model.train()
    kept, peaks, flops = [], [], []
    with preserve_rng(_CPU):
        torch.manual_seed(0)
        for batch in batches:
            meter = Meter(mode)
            try:
                with meter:
                    loss = model.loss(batch)
                    kept.append(meter.live)
                    loss.backward()
            except Exception as error:
                raise TuningError(
                    f"the loss of {model.entry.name} cannot be run without values "
                    f"({type(error).__name__}: {error!s:.120})"
                ) from error
            del loss
            model.module.zero_grad()
            peaks.append(meter.peak + sum(_bytes(each) for each in tree_leaves(batch) if isinstance(each, Tensor)))
            flops.append(meter.flops)
    return Step(max(kept), max(peaks), flops[0])


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
