"""PiSSA and OLoRA over a base that does not change: s · (B·A - B₀·A₀)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.weights.lazy_weight import LazyWeight
from zoo.weights.update import LowRankUpdate


class PiSSAUpdate(LowRankUpdate):
    """W + s · (B @ A - B₀ @ A₀), where A₀ and B₀ are what A and B started as, and never train.

    PiSSA (arXiv 2404.02948) and OLoRA (arXiv 2406.01775) train A and B that start as a part of W, beside the rest,
    W - s·B₀·A₀, which they put into the base's place. Here the base stays as it is and the same rest is computed: the
    function and the gradients of A and B are the same, switching the adapter off restores the base exactly, and as
    the sum is an ordinary LoRA of rank 2r (`as_lora`), the adapter can be saved for the unmodified base, which is
    what PEFT's `path_initial_model_for_weight_conversion` makes of its own. It costs the second pair's memory and,
    in every forward pass, a product of rank 2r.

    Over a quantized base A₀ and B₀ come from the dequantized weight Q(W), and a new adapter changes nothing. QPiSSA
    would quantize the rest instead, Q(W - s·B₀·A₀), and keep the part in A and B in full precision: it starts nearer to
    the full-precision model, from a base that no other adapter can share.

    A₀ and B₀ follow from the base alone: what trains, and what a run's checkpoint has to hold, are A and B. Where the
    weight's own rank is below r, the rest of A and B starts as in a plain LoRA. Dropout is of the inputs of the whole
    difference.
    """

    frozen = ("A0", "B0")

    def begin(self, weight: LazyWeight) -> None:
        """Take A and B, as they are now, for A₀ and B₀; with them the whole has twice the rank."""
        self.rank *= 2
        self.A0 = nn.Parameter(self.A.detach().clone(), requires_grad=False)
        self.B0 = nn.Parameter(self.B.detach().clone(), requires_grad=False)

    def as_lora(self) -> tuple[Tensor, Tensor]:
        """A (2r, inputs) and B (outputs, 2r) of the ordinary LoRA with the same `scale` that this is."""
        A, B = super().pair()
        held = self._parameters
        return torch.cat([A, held["A0"]]), torch.cat([B, -held["B0"]], dim=1)  # type: ignore[list-item, operator]

    def pair(self) -> tuple[Tensor, Tensor]:
        """`as_lora`'s."""
        return self.as_lora()
