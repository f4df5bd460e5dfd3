"""Full training of a weight as an update: a trained replacement of the base."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from zoo.weights.lazy_weight import LazyWeight
from zoo.weights.update import Update


class FullUpdate(Update):
    """A replacement of the weight: one parameter, which starts as a copy of the base.

    Args:
        weight: The weight to replace, of any shape, dense or quantized.

    Attributes:
        weight: The parameter, with the weight's shape, in float32 or better; the layer sees it in the base's dtype. On
            `meta` it has no values.
    """

    kind = "full"

    def __init__(self, weight: LazyWeight) -> None:
        super().__init__()
        dtype = torch.promote_types(weight.dtype, torch.float32)
        if weight.is_meta:
            start = torch.empty(weight.shape, dtype=dtype, device=weight.device)
        else:
            start = weight.base(dtype).clone(memory_format=torch.contiguous_format)
        self.weight = nn.Parameter(start)

    def replacement(self) -> Tensor:
        """Return the parameter itself."""
        return self._parameters["weight"]  # type: ignore[return-value]

    def step_sizes(self, weight: Callable[[], Tensor]) -> dict[str, float]:
        """Return 1: the parameter is the weight."""
        return {"weight": 1.0}

    def forward(self, weight: Tensor) -> Tensor:
        """Return the parameter in the dtype of `weight`."""
        return self.replacement().to(weight.dtype)

    def extra_repr(self) -> str:
        """Return the shape for the module's repr."""
        return f"{tuple(self.weight.shape)}"
