"""DoRA (arXiv 2402.09353): a weight's magnitude and direction, adapted apart."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from zoo.weights.lazy_weight import LazyWeight
from zoo.weights.update import Factors, LowRankUpdate, Scaling


class DoRAUpdate(LowRankUpdate):
    """W' = m · (W + s·B·A) / ‖W + s·B·A‖: one trained magnitude m per output, the norm over all that output takes in.

    magnitude: (outputs,), in float32; it starts as the norms of the base, so that a new adapter changes nothing. The
    outputs are the dimensions that the weight's layout calls so: a convolution's channels, an embedding's features.
    The norm takes no gradient (section 4.3). It is that of the base and this update also where other adapters are
    active too, whose weights the magnitudes then rescale in the order of activation, as in PEFT. Dropout is of the
    inputs of all that the adapter adds.
    """

    takes_base = True

    def begin(self, weight: LazyWeight) -> None:
        """Take the magnitudes from the base of the weight that this is for."""
        outputs = weight.layout.output_dims
        self.summed = tuple(dim for dim in range(weight.dim()) if dim not in outputs)
        if weight.is_meta:
            self.magnitude = nn.Parameter(self.A.new_empty(math.prod(weight.shape[dim] for dim in outputs)))
        else:
            self.magnitude = nn.Parameter(self.norms(weight.base()).reshape(-1))

    def norms(self, weight: Tensor) -> Tensor:
        """The norms, in float32 or better, of a shape that broadcasts against the weight's."""
        dtype = torch.promote_types(weight.dtype, torch.float32)
        return torch.linalg.vector_norm(weight.detach().to(dtype), dim=self.summed, keepdim=True)

    def factors(self) -> Factors | None:
        """None: it is no low-rank change."""
        return None

    def scaling(self, weight: Callable[[], Tensor]) -> Scaling | None:
        """m/n on the outputs of W + s·B·A; None where inputs are dropped, or where outputs are several dimensions."""
        factors = super().factors()
        if factors is None or (self.dropout and self.training):
            return None
        with torch.no_grad():
            norms = self.norms(weight() + self.product())
        return Scaling(factors, self.magnitude / norms.reshape(-1))

    def forward(self, weight: Tensor, base: Tensor) -> Tensor:  # type: ignore[override]
        """m/n · (`weight` + s·B·A), where n are the norms of `base` + s·B·A."""
        delta = self.product()
        norms = self.norms(base + delta)
        ratio = self._parameters["magnitude"].view(norms.shape) / norms  # type: ignore[union-attr]
        return weight + self.dropped((ratio - 1) * weight + ratio * delta).to(weight.dtype)
