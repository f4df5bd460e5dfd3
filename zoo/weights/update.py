"""An adapter's update of one weight: the base class that adapter kinds implement, and LoRA's low-rank product."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Factors(NamedTuple):
    """A low-rank update of a weight seen as a matrix (rows, columns): ΔW = scale · left @ right.

    left: (rows, rank); right: (rank, columns); rows is the weight's first dimension, columns all the others.
    """

    left: Tensor
    right: Tensor
    scale: float


def without_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """Products inside keep their own type: a weight and its rows have full precision under autocast too."""
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


class Layout(NamedTuple):
    """How a weight is seen as a matrix by low-rank updates.

    split: how many leading dimensions make the rows. transposed: the rows are the layer's inputs (embeddings,
    transposed convolutions, transformers' ``Conv1D``), not its outputs. zero_first: a new update starts with A at
    zero instead of B (embeddings, as in PEFT).
    """

    split: int = 1
    transposed: bool = False
    zero_first: bool = False


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
    """LoRA (arXiv 2106.09685): W + scale · B @ A, for a weight of any shape, seen as a matrix as ``layout`` says.

    A is (rank, inputs), B is (outputs, rank). One of the two starts at zero, so that a new adapter changes nothing;
    the other is drawn as PEFT draws it: A uniformly (Kaiming, a = √5), B from a normal distribution.
    """

    kind = "lora"

    def __init__(
        self,
        shape: torch.Size,
        rank: int,
        scale: float,
        *,
        layout: Layout = Layout(),  # noqa: B008 - immutable
        dropout: float = 0.0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        rows, columns = math.prod(shape[: layout.split]), math.prod(shape[layout.split :])
        inputs, outputs = (rows, columns) if layout.transposed else (columns, rows)
        self.shape, self.rank, self.scale = torch.Size(shape), rank, scale
        self.split, self.transposed, self.dropout = layout.split, layout.transposed, dropout
        self.A = nn.Parameter(torch.empty(rank, inputs, dtype=dtype, device=device))
        self.B = nn.Parameter(torch.empty(outputs, rank, dtype=dtype, device=device))
        if self.A.device.type == "meta":
            return
        if layout.zero_first:
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
        with without_autocast(left):
            delta = (left @ right).view(weight.shape)
        return weight + (self.scale * delta).to(weight.dtype)

    def extra_repr(self) -> str:
        return f"{tuple(self.shape)}, rank={self.rank}, scale={self.scale:g}"
