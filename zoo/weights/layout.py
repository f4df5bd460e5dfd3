"""How low-rank updates see a weight of any shape as a matrix."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import nn


class Layout(NamedTuple):
    """How low-rank updates see a weight as a matrix (rows, columns), or as a stack of matrices.

    Attributes:
        split: The number of leading dimensions that form the rows.
        transposed: Whether the rows are the layer's inputs (embeddings, transposed convolutions, transformers'
            `Conv1D`) instead of its outputs.
        zero_first: Whether a new update starts with A at zero instead of B (embeddings, as in PEFT).
        stacked: Whether the weight is a stack of matrices, (matrices, rows, columns), each with factors of its own.
    """

    split: int = 1
    transposed: bool = False
    zero_first: bool = False
    stacked: bool = False

    @property
    def output_dims(self) -> tuple[int, ...]:
        """The weight's dimensions that index the layer's outputs; a kernel's dimensions are not among them."""
        if self.stacked:
            return (0, 2) if self.transposed else (0, 1)
        return (self.split,) if self.transposed else tuple(range(self.split))

    @property
    def input_dims(self) -> tuple[int, ...]:
        """The weight's dimensions that index the layer's inputs; a kernel's dimensions are not among them."""
        if self.stacked:
            return (0, 1) if self.transposed else (0, 2)
        return tuple(range(self.split)) if self.transposed else (self.split,)

    def matrix(self, shape: torch.Size) -> tuple[int, int]:
        """Return (outputs, inputs): the size of a weight of `shape` seen as a matrix, or of each matrix of a stack."""
        if self.stacked:
            rows, columns = shape[1], shape[2]
        else:
            rows, columns = math.prod(shape[: self.split]), math.prod(shape[self.split :])
        return (columns, rows) if self.transposed else (rows, columns)

    @property
    def flat(self) -> Layout:
        """The layout that sees a stack as one matrix, the rows of all its matrices below one another."""
        return self._replace(split=2, stacked=False) if self.stacked else self


def layout_of(uses: Iterable[tuple[nn.Module, str]], shape: torch.Size) -> Layout:
    """Return the layout that PEFT's files have for a weight, where PEFT knows the layer.

    For a raw parameter, leading dimensions of size 1 join the rows, and one of three dimensions is a stack of matrices
    (see `_is_stack`). This chooses only the factors' form; what is computed with the weight never depends on the
    layer's class.

    Args:
        uses: (layer, attribute) of every place that shares the weight.
        shape: The weight's shape.
    """
    uses = list(uses)
    for layer, attribute in uses:
        if attribute != "weight":
            continue
        if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
            return Layout(transposed=True, zero_first=True)
        if isinstance(layer, nn.modules.conv._ConvTransposeNd) or is_hf_conv1d(layer):
            return Layout(transposed=True)
        if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd):
            return Layout()
    if _is_stack([layer for layer, _ in uses], shape):
        return Layout(transposed=any(getattr(layer, "is_transposed", False) is True for layer, _ in uses), stacked=True)
    leading = next((n for n, size in enumerate(shape) if size != 1), 0)
    return Layout(split=max(min(leading + 1, len(shape) - 1), 0))


# Layers whose other weights of three dimensions are no stacks: kernels, also reparametrized ones, and bilinear forms.
_NO_STACKS = (nn.modules.conv._ConvNd, nn.utils.parametrize.ParametrizationList, nn.Bilinear)


def _is_stack(layers: list[nn.Module], shape: torch.Size) -> bool:
    """Return whether a raw parameter is a stack of matrices: the fused experts of a mixture, heads, relations.

    Nothing in a module says so before it runs; three dimensions do, of which none is 1 (as of attention vectors). Two
    sorts of weights are left: those of as many entries as each has values, such as a generator's constant input
    (channels, 4, 4), and those for which a pair for each matrix has more than eight times the values of one pair for
    the whole, such as kernels (out, in, 3). A wrong guess costs parameters; what is computed is right either way.
    """
    if len(shape) != 3 or min(shape) < 2 or any(isinstance(layer, _NO_STACKS) for layer in layers):
        return False
    count, rows, columns = shape
    return count < rows * columns and count * (rows + columns) <= 8 * (count + rows * columns)


def is_hf_conv1d(layer: nn.Module) -> bool:
    """Return whether a layer is transformers' `Conv1D`, whose weight is (in, out)."""
    return type(layer).__name__ == "Conv1D" and type(layer).__module__ == "transformers.pytorch_utils"
