"""The update of one weight: scaled along its outputs or its inputs."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from zoo import Adapter, Layout, LazyWeight, Scaling, Update

from .config import IA3


def inject_adapter(name: str, weight: LazyWeight, config: Adapter) -> Update | None:
    """Return the update of one weight; None for another kind's configuration."""
    return Scaled(weight, config.scales_inputs(name)) if isinstance(config, IA3) else None


class Scaled(Update):
    """W with each output's values, or each input's, times a learned number.

    The weight's layout says which of its dimensions are outputs and inputs.

    Attributes:
        ia3_l: as in PEFT's files: [outputs, 1] or, for inputs, [1, inputs]; for a convolution's kernel [1, n, 1, …].
        inputs: whether the inputs are scaled, and not the outputs.
        sizes: shape of the numbers that broadcasts against W.
    """

    kind = "ia3"

    def __init__(self, weight: LazyWeight, inputs: bool) -> None:
        super().__init__()
        shape, layout = torch.Size(weight.shape), weight.layout
        dims = layout.input_dims if inputs else layout.output_dims
        self.inputs = inputs
        self.sizes = tuple(size if dim in dims else 1 for dim, size in enumerate(shape))  # broadcasts against W
        number = math.prod(self.sizes)
        if len(shape) > 2 and layout == Layout():
            form = (1, number, *(1 for _ in shape[2:]))
        else:
            form = (1, number) if inputs else (number, 1)
        self.ia3_l = nn.Parameter(torch.ones(form, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        """Return W times the numbers."""
        return (weight * self.ia3_l.view(self.sizes)).to(weight.dtype)

    def scaling(self, weight: Callable[[], Tensor]) -> Scaling | None:
        """Return the numbers, as scales of the layer's outputs or inputs."""
        numbers = self.ia3_l.reshape(-1)
        return Scaling(inputs=numbers) if self.inputs else Scaling(outputs=numbers)

    def for_bias(self, shape: torch.Size) -> Update | None:
        """Return the update of the bias, a part of the outputs; None if these are not what is scaled."""
        if self.inputs or shape.numel() % self.ia3_l.numel():
            return None
        return ScaledBias(self)


class ScaledBias(Update):
    """A bias with each output's value times that output's number; groups of outputs share them in order."""

    kind = "ia3"

    def __init__(self, weights: Scaled) -> None:
        super().__init__()
        self._weights = (weights,)  # in a tuple: its parameter is not this module's, and is saved and trained once

    def forward(self, weight: Tensor) -> Tensor:
        """Return the bias times the numbers."""
        numbers = self._weights[0].ia3_l.reshape(-1)
        if numbers.numel() != weight.numel():
            numbers = numbers.repeat(weight.numel() // numbers.numel())
        return (weight * numbers.view(weight.shape)).to(weight.dtype)
