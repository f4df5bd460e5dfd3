"""LoRA on a weight that stacks the matrices of several experts, as PEFT's `target_parameters` adapts it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.weights.update import Update, without_autocast


class Experts(Update):
    """W[e] + scale · B[e] @ A[e] for a weight (experts, out, in), or (experts, in, out) if `inputs_first`.

    A is (experts, rank, in), B is (experts, out, rank).
    """

    kind = "lora"

    def __init__(self, A: Tensor, B: Tensor, scale: float, inputs_first: bool = False) -> None:
        super().__init__()
        self.A = nn.Parameter(A)
        self.B = nn.Parameter(B)
        self.rank, self.scale, self.inputs_first = A.shape[1], scale, inputs_first

    @classmethod
    def empty(cls, shape: torch.Size, rank: int, scale: float, inputs_first: bool, device: torch.device) -> Experts:
        """Return an update without values, for a weight of `shape`."""
        experts, outputs, inputs = (shape[0], shape[2], shape[1]) if inputs_first else tuple(shape)
        A = torch.empty(experts, rank, inputs, device=device)
        return cls(A, torch.empty(experts, outputs, rank, device=device), scale, inputs_first)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the updated weights of all experts, in the weight's shape."""
        with without_autocast(self.A):
            delta = self.B @ self.A  # (experts, out, in)
        delta = delta.transpose(1, 2) if self.inputs_first else delta  # the weight's shape
        return weight + (self.scale * delta).to(weight.dtype)

    def to_peft(self) -> tuple[Tensor, Tensor]:
        """Return PEFT's two matrices: A (experts · rank, in) and B (out, rank · experts)."""
        A, B = self.A.detach(), self.B.detach()
        return A.flatten(0, 1), B.permute(1, 2, 0).flatten(1)

    @torch.no_grad()
    def fill_from_peft(self, A: Tensor, B: Tensor) -> None:
        """Copy the values of PEFT's two matrices, shaped as in `to_peft`."""
        experts, rank, _ = self.A.shape
        self.A.copy_(A.view(experts, rank, -1))  # (experts, rank, in)
        self.B.copy_(B.view(-1, rank, experts).permute(2, 0, 1))  # (experts, out, rank)

    def extra_repr(self) -> str:
        """Return the shape of A and the scale for the module's repr."""
        return f"{tuple(self.A.shape)}, scale={self.scale:g}"
