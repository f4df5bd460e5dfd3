"""Full training of a weight as an update: a replacement that trains in the base's place."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.weights.lazy_weight import LazyWeight
from zoo.weights.update import Update


class FullUpdate(Update):
    """The weight is this update's one parameter, which starts as a copy of the base.

    weight: what to replace, of any shape, dense or packed. The parameter, called `weight` too, has its shape, in
    float32 or better; the layer sees it in the base's type. On `meta` it is empty.
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
        """The parameter itself."""
        return self._parameters["weight"]  # type: ignore[return-value]

    def forward(self, weight: Tensor) -> Tensor:
        """The parameter, in `weight`'s type."""
        return self.replacement().to(weight.dtype)

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}"
