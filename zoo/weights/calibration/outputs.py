"""How far a module's outputs are from those in full precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

MOST = 1 << 16  # values of one output tensor that are compared, evenly spread over it

Sketch = list[Tensor]  # of each floating-point tensor of an output some values, float32 on the CPU


class WeightError(NamedTuple):
    """What quantizing one weight does to the outputs of the operations that use it, relative to their norm.

    Attributes:
        nearest: With each value rounded by itself.
        calibrated: With the values rounded by the data.
    """

    nearest: float
    calibrated: float


@dataclass(frozen=True)
class Calibration:
    """What calibrating a model found; all errors are measured on the batches that it was calibrated with.

    Attributes:
        error: of the module's outputs, the norm of their difference from those before, relative to their own.
        calibrated: the weights that were rounded by data, by name, with the error of each.
        uncalibrated: the weights that were quantized without data, by name, with the reason.
        corrected: the names of the batch norms' running means that were corrected.
    """

    error: float
    calibrated: Mapping[str, WeightError] = field(default_factory=lambda: MappingProxyType({}))
    uncalibrated: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    corrected: tuple[str, ...] = ()


def sketch(output: Any) -> Sketch:
    """Return some values of each floating-point tensor in an output."""
    if hasattr(output, "to_tuple"):  # outputs of transformers and diffusers
        output = output.to_tuple()
    found = []
    for leaf in tree_leaves(output):
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            flat = leaf.detach().reshape(-1)
            step = max(1, -(-flat.numel() // MOST))
            found.append(flat[::step].float().cpu().clone())
    return found


def relative_error(reference: Sequence[Sketch], found: Sequence[Sketch]) -> float:
    """Return the norm of the difference of outputs, relative to the norm of the reference.

    Tensors of different scales count alike: the error of each is relative to itself; the result is their mean square's
    root.
    """
    tensors = max((len(one) for one in reference), default=0)
    squares = []
    for place in range(tensors):
        pairs = [
            (a[place], b[place])
            for a, b in zip(reference, found, strict=True)
            if place < min(len(a), len(b)) and a[place].shape == b[place].shape
        ]
        off = sum(float((a - b).square().sum(dtype=torch.float64)) for a, b in pairs)
        whole = sum(float(a.square().sum(dtype=torch.float64)) for a, _ in pairs)
        if whole > 0:
            squares.append(off / whole)
    return (sum(squares) / len(squares)) ** 0.5 if squares else 0.0
