"""DoRA (arXiv 2402.09353): a weight's magnitude and its direction are adapted separately."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from zoo.weights.lazy_weight import LazyWeight
from zoo.weights.update import Factors, LowRankUpdate, Scaling


class DoRAUpdate(LowRankUpdate):
    """W' = m · (W + s·B·A) / ‖W + s·B·A‖ with one trained magnitude m per output, and one norm per output.

    The outputs are the dimensions that the weight's layout names so: a convolution's channels, an embedding's features.
    The norm takes no gradient (section 4.3). It is that of the base and this update, also if other adapters are active:
    the magnitudes then rescale their weights too, in the order of activation, as in PEFT. Dropout applies to the inputs
    of everything that the adapter adds.

    Attributes:
        magnitude: m (outputs,), in float32. It starts as the norms of the base, so that a new adapter changes nothing.
        summed: The dimensions of the weight that each norm is taken over.
    """

    takes_base = True

    def init_from(self, weight: LazyWeight) -> None:
        """Initialize the magnitudes from the base of `weight`."""
        outputs = weight.layout.output_dims
        self.summed = tuple(dim for dim in range(weight.dim()) if dim not in outputs)
        if weight.is_meta:
            self.magnitude = nn.Parameter(self.A.new_empty(math.prod(weight.shape[dim] for dim in outputs)))
        else:
            self.magnitude = nn.Parameter(self.norms(weight.base()).reshape(-1))

    def norms(self, weight: Tensor) -> Tensor:
        """Return the norms, in float32 or better, in a shape that broadcasts against the weight's."""
        dtype = torch.promote_types(weight.dtype, torch.float32)
        return torch.linalg.vector_norm(weight.detach().to(dtype), dim=self.summed, keepdim=True)

    def step_sizes(self, weight: Callable[[], Tensor]) -> None:
        """Return None, to have it measured: with one input, say, a direction cannot change."""

    def factors(self) -> Factors | None:
        """Return None: the update is not low-rank."""
        return None

    def scaling(self, weight: Callable[[], Tensor]) -> Scaling | None:
        """Return m/n on the outputs of W + s·B·A, where n are the norms.

        None if inputs are dropped, or if several dimensions index the outputs.
        """
        factors = super().factors()
        if factors is None or (self.dropout and self.training):
            return None
        with torch.no_grad():
            norms = self.norms(weight() + self.product())  # the weight's shape, 1 in the summed dimensions
        return Scaling(factors, self.magnitude / norms.reshape(-1))  # (outputs,)

    def forward(self, weight: Tensor, base: Tensor) -> Tensor:  # type: ignore[override]
        """Return m/n · (`weight` + s·B·A), where n are the norms of `base` + s·B·A."""
        delta = self.product()  # (*shape)
        norms = self.norms(base + delta)  # (*shape), 1 in the summed dimensions
        ratio = self._parameters["magnitude"].view(norms.shape) / norms  # type: ignore[union-attr]
        return weight + self.dropped((ratio - 1) * weight + ratio * delta).to(weight.dtype)
