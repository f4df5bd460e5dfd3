"""How low-rank updates see a weight of any shape as a matrix."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import nn


class Layout(NamedTuple):
    """How low-rank updates see a weight as a matrix (rows, columns).

    Attributes:
        split: The number of leading dimensions that form the rows.
        transposed: Whether the rows are the layer's inputs (embeddings, transposed convolutions, transformers'
            `Conv1D`) instead of its outputs.
        zero_first: Whether a new update starts with A at zero instead of B (embeddings, as in PEFT).
    """

    split: int = 1
    transposed: bool = False
    zero_first: bool = False

    @property
    def output_dims(self) -> tuple[int, ...]:
        """The weight's dimensions that index the layer's outputs; a kernel's dimensions are not among them."""
        return (self.split,) if self.transposed else tuple(range(self.split))

    @property
    def input_dims(self) -> tuple[int, ...]:
        """The weight's dimensions that index the layer's inputs; a kernel's dimensions are not among them."""
        return tuple(range(self.split)) if self.transposed else (self.split,)

    def matrix(self, shape: torch.Size) -> tuple[int, int]:
        """Return (outputs, inputs): the size of a weight of `shape` seen as a matrix."""
        rows, columns = math.prod(shape[: self.split]), math.prod(shape[self.split :])
        return (columns, rows) if self.transposed else (rows, columns)


def layout_of(uses: Iterable[tuple[nn.Module, str]], shape: torch.Size) -> Layout:
    """Return the layout that PEFT's files have for a weight, where PEFT knows the layer.

    For a raw parameter, leading dimensions of size 1 join the rows. This chooses only the factors' orientation; what
    is computed with the weight never depends on the layer's class.

    Args:
        uses: (layer, attribute) of every place that shares the weight.
        shape: The weight's shape.
    """
    for layer, attribute in uses:
        if attribute != "weight":
            continue
        if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
            return Layout(transposed=True, zero_first=True)
        if isinstance(layer, nn.modules.conv._ConvTransposeNd) or is_hf_conv1d(layer):
            return Layout(transposed=True)
        if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd):
            return Layout()
    leading = next((n for n, size in enumerate(shape) if size != 1), 0)
    return Layout(split=max(min(leading + 1, len(shape) - 1), 0))


def is_hf_conv1d(layer: nn.Module) -> bool:
    """Return whether a layer is transformers' `Conv1D`, whose weight is (in, out)."""
    return type(layer).__name__ == "Conv1D" and type(layer).__module__ == "transformers.pytorch_utils"
