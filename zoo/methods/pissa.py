"""PiSSA and OLoRA on an unchanged base: s · (B·A - B₀·A₀)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.weights.lazy_weight import LazyWeight
from zoo.weights.update import LowRankUpdate


class PiSSAUpdate(LowRankUpdate):
    """W + s · (B @ A - B₀ @ A₀), where A₀ and B₀ are the initial values of A and B, and never train.

    PiSSA (arXiv 2404.02948) and OLoRA (arXiv 2406.01775) train A and B that start as a part of W, and replace the base
    by the residual W - s·B₀·A₀. Here the base stays as it is and the same residual is computed: the function and the
    gradients of A and B are the same, deactivating the adapter restores the base exactly, and because the sum is an
    ordinary LoRA of rank 2r (`as_lora`), the adapter can be saved for the unmodified base, as PEFT does with
    `path_initial_model_for_weight_conversion`. It costs the memory of A₀ and B₀ and, in every forward pass, a product
    of rank 2r.

    On a quantized base A₀ and B₀ come from the dequantized weight Q(W), and a new adapter changes nothing. QPiSSA would
    quantize the residual instead, Q(W - s·B₀·A₀), and keep the part in A and B in full precision: it starts nearer to
    the full-precision model, from a base that no other adapter can share.

    A₀ and B₀ follow from the base alone: only A and B train, and only they have to be in a run's checkpoint. If the
    weight's own rank is below r, the rest of A and B starts as in plain LoRA. Dropout applies to the inputs of the
    whole difference.

    Attributes:
        rank: 2r, the rank of the difference.
        A0: A₀ (r, inputs).
        B0: B₀ (outputs, r).
    """

    frozen = ("A0", "B0")

    def init_from(self, weight: LazyWeight) -> None:
        """Set A₀ and B₀ to the current A and B; the difference has twice the rank."""
        self.rank *= 2
        self.followers = ()
        self.A0 = nn.Parameter(self.A.detach().clone(), requires_grad=False)
        self.B0 = nn.Parameter(self.B.detach().clone(), requires_grad=False)

    def as_lora(self) -> tuple[Tensor, Tensor]:
        """Return A (2r, inputs) and B (outputs, 2r) of the equivalent ordinary LoRA with the same `scale`."""
        A, B = super().pair()
        parameters = self._parameters
        A = torch.cat([A, parameters["A0"]], dim=-2)  # type: ignore[list-item]  # (…, 2r, inputs)
        B = torch.cat([B, -parameters["B0"]], dim=-1)  # type: ignore[operator]  # (…, outputs, 2r)
        return A, B

    def pair(self) -> tuple[Tensor, Tensor]:
        """Return the factors of the equivalent ordinary LoRA; see `as_lora`."""
        return self.as_lora()
