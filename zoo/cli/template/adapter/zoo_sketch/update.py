"""What the adapter does to one weight."""

from __future__ import annotations

import torch
import zoo
from torch import Tensor, nn

from . import Sketch


def inject_adapter(weight: zoo.LazyWeight, config: Sketch) -> zoo.Update:
    """Return the update of one weight, which is given as its layer sees it."""
    return Gains(weight.shape, weight.layout, config.side, weight.device)


class Gains(zoo.Update):
    """W · (1 + g) with one parameter g for each output, or each input, of a weight of any shape.

    A new one changes nothing, since g is zero, and has a gradient wherever the weight has one.
    """

    kind = "sketch"

    def __init__(self, shape: torch.Size, layout: zoo.Layout, side: str, device: torch.device | None) -> None:
        super().__init__()
        chosen = layout.output_dims if side == "outputs" else layout.input_dims
        sizes = [size if place in chosen else 1 for place, size in enumerate(shape)]
        self.gain = nn.Parameter(torch.zeros(sizes, device=device))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the updated weight, in the weight's shape and type."""
        return weight * (1 + self.gain).to(weight.dtype)
