"""An adapter's update of one weight: the base class that adapter kinds implement, and LoRA's low-rank product."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.weights.layout import Layout


class Factors(NamedTuple):
    """A low-rank update of a weight seen as a matrix (rows, columns): ΔW = scale · left @ right.

    left: (rows, rank); right: (rank, columns); rows is the weight's first dimension, columns all the others.
    """

    left: Tensor
    right: Tensor
    scale: float


class Scaling(NamedTuple):
    """An update that scales a weight's outputs and inputs after a low-rank change of it: o · (W + ΔW) · i.

    factors: of ΔW, None for none. outputs: (outputs,), inputs: (inputs,), one number for each, None for none; which
    dimensions these are, the weight's `Layout` says.
    """

    factors: Factors | None = None
    outputs: Tensor | None = None
    inputs: Tensor | None = None


def without_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """Products inside keep their own type: a weight and its rows have full precision under autocast too."""
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


class Update(nn.Module):
    """What one adapter does to one weight. Its parameters are what trains.

    A kind of adapter implements `forward` (the updated dense weight). Where the update is a low-rank product, also
    `factors`, which lets linear layers and convolutions run without ever forming the product; where it scales outputs
    or inputs, `scaling`, for the same; where it replaces the weight, `replacement`; where it changes the bias that
    goes with the weight too, `for_bias`.

    dropout: not 0 where training draws random numbers. frozen: names of parameters that never train.
    takes_base: `forward` gets the base as its second argument, which other active adapters have not changed yet.
    """

    kind = "update"
    dropout = 0.0
    frozen: tuple[str, ...] = ()
    takes_base = False

    def forward(self, weight: Tensor) -> Tensor:
        """The updated weight: same shape and dtype, differentiable in this update's parameters (and in `weight`)."""
        raise NotImplementedError

    def factors(self) -> Factors | None:
        """The low-rank factors when the update is W + scale · left @ right, else None."""
        return None

    def scaling(self, weight: Callable[[], Tensor]) -> Scaling | None:
        """How the update scales outputs and inputs, when that and a low-rank change is all that it does, else None.

        Linear layers and convolutions then scale activations and never form the updated weight. weight: makes the
        dense weight that is updated, without a graph.
        """
        return None

    def replacement(self) -> Tensor | None:
        """The weight that stands in the base's place, when the update does not depend on the base, else None."""
        return None

    def for_bias(self, shape: torch.Size) -> Update | None:
        """What goes with this to the bias (of `shape`) of the weight's layer, if anything.

        It is attached, activated and merged beside this one, and never saved: it has no parameters of its own but looks
        this update's up whenever it is used.
        """
        return None

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Let the parameters train or not; those in `frozen` never do."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(requires_grad and name not in self.frozen)
        return self


class LowRankUpdate(Update):
    """W + scale · B @ A with A (rank, inputs) and B (outputs, rank), of a weight seen as a matrix as `layout` says.

    The base of LoRA and its variants. A and B are empty: whoever makes one fills them (`zoo.methods.lora`).
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
        outputs, inputs = layout.matrix(shape)
        self.shape, self.rank, self.scale = torch.Size(shape), rank, scale
        self.split, self.transposed, self.dropout = layout.split, layout.transposed, dropout
        self.A = nn.Parameter(torch.empty(rank, inputs, dtype=dtype, device=device))
        self.B = nn.Parameter(torch.empty(outputs, rank, dtype=dtype, device=device))

    def pair(self) -> tuple[Tensor, Tensor]:
        """(A, B) whose product, times `scale`, is the update, as they are now."""
        held = self._parameters
        return held["A"], held["B"]  # type: ignore[return-value]

    def matrices(self) -> tuple[Tensor, Tensor]:
        """(left, right) with ΔW = scale · left @ right in the weight's own layout (rows, columns)."""
        A, B = self.pair()
        return (A.t(), B.t()) if self.transposed else (B, A)

    def factors(self) -> Factors | None:
        """The factors, when the rows are the first dimension alone; see `Update.factors`."""
        if self.split != 1:
            return None
        return Factors(*self.matrices(), self.scale)

    def product(self) -> Tensor:
        """scale · B @ A in the weight's shape."""
        left, right = self.matrices()
        with without_autocast(left):
            return self.scale * (left @ right).view(self.shape)

    def dropped(self, change: Tensor) -> Tensor:
        """A change of the weight; in training with dropout, without what inputs drawn for this one use contribute."""
        if not (self.dropout and self.training):
            return change
        split = len(self.shape[: self.split])
        sizes = [size if (dim < split) == self.transposed else 1 for dim, size in enumerate(self.shape)]
        return change * F.dropout(change.new_ones(sizes), self.dropout)

    def forward(self, weight: Tensor) -> Tensor:
        """W + scale · B @ A. In training with dropout, inputs are dropped: the same ones for the whole use."""
        return weight + self.dropped(self.product()).to(weight.dtype)

    def extra_repr(self) -> str:
        return f"{tuple(self.shape)}, rank={self.rank}, scale={self.scale:g}"


class LoRAUpdate(LowRankUpdate):
    """LoRA (arXiv 2106.09685): W + scale · B @ A, for a weight of any shape, seen as a matrix as `layout` says.

    A is (rank, inputs), B is (outputs, rank). One of the two starts at zero, so that a new adapter changes nothing;
    the other is drawn as PEFT draws it: A uniformly (Kaiming, a = √5), B from a normal distribution.
    """

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
        super().__init__(shape, rank, scale, layout=layout, dropout=dropout, dtype=dtype, device=device)
        start(self.A, self.B, layout)


def start(A: Tensor, B: Tensor, layout: Layout) -> None:
    """Fill factors so that B @ A is zero, as PEFT does: see `LoRAUpdate`."""
    if A.device.type == "meta":
        return
    if layout.zero_first:
        nn.init.zeros_(A)
        nn.init.normal_(B)
    else:
        nn.init.kaiming_uniform_(A, a=math.sqrt(5))
        nn.init.zeros_(B)
