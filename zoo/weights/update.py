"""An adapter's update of one weight: the base class that adapter kinds implement, and LoRA's low-rank product."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.errors import AdapterError


class Factors(NamedTuple):
    """A low-rank update of a weight seen as a matrix (rows, columns): ΔW = scale · left @ right.

    left: (rows, rank); right: (rank, columns); rows is the weight's first dimension, columns all the others.
    """

    left: Tensor
    right: Tensor
    scale: float


class Update(nn.Module):
    """What one adapter does to one weight. Its parameters are what trains.

    A kind of adapter implements ``forward`` (the updated dense weight); where the update is a low-rank product, also
    ``factors``, which lets linear layers and convolutions run without ever forming the product.
    """

    kind = "update"
    dropout = 0.0

    def forward(self, weight: Tensor) -> Tensor:
        """The updated weight: same shape and dtype, differentiable in this update's parameters (and in ``weight``)."""
        raise NotImplementedError

    def factors(self) -> Factors | None:
        """The low-rank factors when the update is W + scale · left @ right, else None."""
        return None


class LowRank(Update):
    """LoRA (arXiv 2106.09685): W + scale · B @ A, for a weight of any shape.

    The weight is seen as a matrix whose rows are its first ``split`` dimensions. ``transposed`` says that the rows
    are the layer's inputs (embeddings, transposed convolutions, transformers' ``Conv1D``). A is (rank, inputs),
    B is (outputs, rank). ``initial`` chooses which of them starts at zero, so that a new adapter changes nothing:
    B, except for embeddings, where PEFT starts with A at zero.
    """

    kind = "lora"

    def __init__(
        self,
        shape: torch.Size,
        rank: int,
        scale: float,
        *,
        split: int = 1,
        transposed: bool = False,
        zero_first: bool = False,
        dropout: float = 0.0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        rows, columns = math.prod(shape[:split]), math.prod(shape[split:])
        inputs, outputs = (rows, columns) if transposed else (columns, rows)
        self.shape, self.rank, self.scale = torch.Size(shape), rank, scale
        self.split, self.transposed, self.dropout = split, transposed, dropout
        self.A = nn.Parameter(torch.empty(rank, inputs, dtype=dtype, device=device))
        self.B = nn.Parameter(torch.empty(outputs, rank, dtype=dtype, device=device))
        if self.A.device.type == "meta":
            return
        if zero_first:
            nn.init.zeros_(self.A)
            nn.init.normal_(self.B)
        else:
            nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
            nn.init.zeros_(self.B)

    def matrices(self) -> tuple[Tensor, Tensor]:
        """(left, right) with ΔW = scale · left @ right in the weight's own layout (rows, columns)."""
        held = self._parameters
        A, B = held["A"], held["B"]
        return (A.t(), B.t()) if self.transposed else (B, A)  # type: ignore[union-attr, return-value]

    def factors(self) -> Factors | None:
        """The factors, when the rows are the first dimension alone; see ``Update.factors``."""
        if self.split != 1:
            return None
        return Factors(*self.matrices(), self.scale)

    def forward(self, weight: Tensor) -> Tensor:
        """W + scale · B @ A. In training with dropout, inputs are dropped: the same ones for the whole use."""
        left, right = self.matrices()
        if self.dropout and self.training:
            if self.transposed:
                left = F.dropout(left.new_ones(left.shape[0], 1), self.dropout) * left
            else:
                right = F.dropout(right.new_ones(1, right.shape[1]), self.dropout) * right
        delta = (left @ right).view(weight.shape)
        return weight + (self.scale * delta).to(weight.dtype)

    def extra_repr(self) -> str:
        return f"{tuple(self.shape)}, rank={self.rank}, scale={self.scale:g}"


def check_rank(rank: object) -> int:
    """``rank`` as a whole number of at least 1; AdapterError otherwise."""
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise AdapterError(f"rank: expected a whole number of at least 1, got {rank!r}")
    return rank
