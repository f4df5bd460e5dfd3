"""An adapter's update of one weight: the base class of adapter methods, and LoRA's low-rank update.

Notation for shapes, of a weight seen as a matrix by its `Layout`:
    outputs, inputs   the layer's outputs and inputs
    rows, columns     the weight's leading and other dimensions: (outputs, inputs), or the reverse if transposed
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.weights.layout import Layout
from zoo.weights.quantized_tensor import QuantizedTensor


class Factors(NamedTuple):
    """A low-rank update of a weight seen as a matrix (rows, columns): ΔW = scale · left @ right.

    The rows are the weight's first dimension, the columns all the others.

    Attributes:
        left: (rows, rank).
        right: (rank, columns).
        scale: The factor before the product.
    """

    left: Tensor
    right: Tensor
    scale: float


class Scaling(NamedTuple):
    """An update that scales a weight's outputs and inputs after a low-rank update: o · (W + ΔW) · i.

    The weight's `Layout` defines which dimensions are outputs and inputs.

    Attributes:
        factors: The low-rank update ΔW; None for no update.
        outputs: o, one number per output, (outputs,); None for ones.
        inputs: i, one number per input, (inputs,); None for ones.
    """

    factors: Factors | None = None
    outputs: Tensor | None = None
    inputs: Tensor | None = None


def without_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """Return a context in which products keep their own dtype.

    A weight, and rows of it, have full precision under autocast too.
    """
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


class Update(nn.Module):
    """What one adapter does to one weight. Its parameters are what trains.

    An adapter method implements `forward` (the updated dense weight). Where the update is low-rank, also `factors`,
    which lets linear layers and convolutions run without forming the product; where it scales outputs or inputs,
    `scaling`, for the same reason; where it replaces the weight, `replacement`; where it also changes the bias of the
    weight's layer, `for_bias`.

    Attributes:
        kind: The adapter method's name.
        dropout: Nonzero if training draws random numbers.
        frozen: Names of parameters that never train.
        takes_base: Whether `forward` gets the base, not yet changed by other active adapters, as second argument.
        replaces: Whether the method implements `replacement`.
        changes_bias: Whether the method implements `for_bias`.
        last: Above 0 for what the weight is made to be after all other updates, zeros or quantized values, in this
            order; 0 for an update that is applied in its adapter's turn.
        followers: Names of parameters that change nothing at first, because what they are multiplied with starts at
            zero; None if that is to be measured. See `step_sizes`.
    """

    kind = "update"
    dropout = 0.0
    frozen: tuple[str, ...] = ()
    takes_base = False
    replaces: bool = False
    changes_bias: bool = False
    last: int = 0
    followers: tuple[str, ...] | None = None

    def __init_subclass__(cls, **kwargs: object) -> None:
        """Record which optional methods the subclass implements, so that the others need not be called."""
        super().__init_subclass__(**kwargs)
        cls.replaces = cls.replacement is not Update.replacement
        cls.changes_bias = cls.for_bias is not Update.for_bias

    def forward(self, weight: Tensor) -> Tensor:
        """Return the updated weight.

        It has the same shape and dtype, and is differentiable in this update's parameters and in `weight`.
        """
        raise NotImplementedError

    def factors(self) -> Factors | None:
        """Return the low-rank factors if the update is W + scale · left @ right, else None."""
        return None

    def scaling(self, weight: Callable[[], Tensor]) -> Scaling | None:
        """Return the scaling of outputs and inputs if the update is that and at most a low-rank change, else None.

        Linear layers and convolutions then scale activations and never form the updated weight.

        Args:
            weight: Returns the dense weight to update, without a graph.
        """
        return None

    def replacement(self) -> Tensor | None:
        """Return the weight that replaces the base if the update does not depend on the base, else None."""
        return None

    def stored(self, weight: Tensor) -> QuantizedTensor | None:
        """Return how the updated weight is stored when the adapter is merged; None for dense.

        Only of an update that is applied last.

        Args:
            weight: What `forward` gets.
        """
        return None

    def look_up(self, index: Tensor, rows: Tensor) -> Tensor | None:
        """Return the updated weight's rows at `index`, given the base's there; None if it takes the whole weight.

        Args:
            index: (...).
            rows: (..., features).
        """
        return None

    def for_bias(self, shape: torch.Size) -> Update | None:
        """Return this adapter's update of the bias (of `shape`) of the weight's layer, or None.

        It is attached, activated and merged together with this one, and never saved: it has no parameters of its own
        but looks this update's up whenever it is used.
        """
        return None

    def step_sizes(self, weight: Callable[[], Tensor]) -> Mapping[str, float | Tensor] | None:
        """Return what a step of each parameter does to the weight now, by the parameter's name: numbers or tensors ().

        That is the root mean square of the weight's change where each of the parameter's values, and no others, moves
        by 1 in the direction of its gradient, as in Adam's first step at rate 1, for a random gradient of the weight.
        Training gives each parameter its learning rate by it (`zoo.tuning.rates`). None, the default, has it measured.

        Args:
            weight: Returns the dense base in float32, without a graph.
        """
        return None

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Set whether the parameters train; those in `frozen` never do."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(requires_grad and name not in self.frozen)
        return self


class LowRankUpdate(Update):
    """W + scale · B @ A with A (rank, inputs) and B (outputs, rank), for a weight seen as a matrix by `layout`.

    For a stack of matrices A is (matrices, rank, inputs) and B (matrices, outputs, rank), a pair for each. The base
    class of LoRA and its variants. A and B are created empty: the caller fills them (`zoo.methods.lora`).
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
        stack = tuple(shape[:1]) if layout.stacked else ()
        self.shape, self.rank, self.scale = torch.Size(shape), rank, scale
        self.split, self.transposed, self.stacked = layout.split, layout.transposed, layout.stacked
        self.followers = ("B",) if layout.zero_first else ("A",)
        self.dropout = dropout
        self.A = nn.Parameter(torch.empty(*stack, rank, inputs, dtype=dtype, device=device))  # (…, rank, inputs)
        self.B = nn.Parameter(torch.empty(*stack, outputs, rank, dtype=dtype, device=device))  # (…, outputs, rank)

    def pair(self) -> tuple[Tensor, Tensor]:
        """Return the current (A, B), whose product times `scale` is the update."""
        parameters = self._parameters
        return parameters["A"], parameters["B"]  # type: ignore[return-value]

    def step_sizes(self, weight: Callable[[], Tensor]) -> Mapping[str, float | Tensor] | None:
        """Return |scale| times what signs do with the other factor: see `signs_of`."""
        A, B = (whole(self._parameters[name]).detach().float() for name in "AB")  # type: ignore[arg-type]
        return {"A": abs(self.scale) * signs_of(B.mT), "B": abs(self.scale) * signs_of(A)}

    def matrices(self) -> tuple[Tensor, Tensor]:
        """Return (left, right) with ΔW = scale · left @ right in the weight's own layout (rows, columns)."""
        A, B = self.pair()
        return (A.mT, B.mT) if self.transposed else (B, A)  # (…, rows, rank), (…, rank, columns)

    def factors(self) -> Factors | None:
        """Return the factors if the rows are the first dimension alone; see `Update.factors`."""
        if self.split != 1 or self.stacked:
            return None
        A, B = self.pair()
        return Factors(A.mT, B.mT, self.scale) if self.transposed else Factors(B, A, self.scale)

    def product(self) -> Tensor:
        """Return scale · B @ A in the weight's shape."""
        left, right = self.matrices()
        with without_autocast(left):
            return self.scale * (left @ right).view(self.shape)  # (…, rows, columns) -> the weight's shape

    def dropped(self, change: Tensor) -> Tensor:
        """Apply dropout to a change of the weight.

        In training, the contribution of randomly chosen inputs is dropped, the same ones for the whole forward pass.
        """
        if not (self.dropout and self.training):
            return change
        rows = (1,) if self.stacked else range(self.split)  # the dimensions of the rows
        sizes = [size if (dim in rows) == self.transposed else 1 for dim, size in enumerate(self.shape)]
        if self.stacked:
            sizes[0] = self.shape[0]  # each matrix has inputs of its own
        mask = F.dropout(change.new_ones(sizes), self.dropout)  # the weight's shape with all outputs of size 1
        return change * mask

    def forward(self, weight: Tensor) -> Tensor:
        """Return W + scale · B @ A.

        In training with dropout, inputs are dropped: the same ones for the whole forward pass.
        """
        return weight + self.dropped(self.product()).to(weight.dtype)

    def extra_repr(self) -> str:
        """Return shape, rank and scale for the module's repr."""
        return f"{tuple(self.shape)}, rank={self.rank}, scale={self.scale:g}"


class LoRAUpdate(LowRankUpdate):
    """LoRA (arXiv 2106.09685): W + scale · B @ A for a weight of any shape, seen as a matrix by `layout`.

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
        init_factors(self.A, self.B, layout)


def whole(tensor: Tensor) -> Tensor:
    """Return all values of a tensor that may be sharded over processes."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def signs_of(matrix: Tensor) -> Tensor:
    """Return the root mean square of sign(g @ matrix.T) @ matrix for Gaussian g, where `matrix` is (…, r, n).

    That is √r times the matrix's own for r much below n. Rows that are alike add up to more: the signs of two Gaussians
    of correlation c are equal so often that their product is (2 / π) · arcsin(c) on average.
    """
    gram = matrix @ matrix.mT  # (…, r, r)
    norms = gram.diagonal(dim1=-2, dim2=-1).sqrt()
    products = norms.unsqueeze(-1) * norms.unsqueeze(-2)
    alike = torch.where(products > 0, gram / products, 0).clamp(-1, 1)
    square = (2 / math.pi) * (alike.asin() * gram).sum((-2, -1)).mean() / max(matrix.shape[-1], 1)
    return square.clamp(min=0).sqrt()


def init_factors(A: Tensor, B: Tensor, layout: Layout) -> None:
    """Initialize factors as PEFT does, so that B @ A is zero: see `LoRAUpdate`."""
    if A.device.type == "meta":
        return
    if layout.zero_first:
        nn.init.zeros_(A)
        nn.init.normal_(B)
    else:
        bound = 1 / math.sqrt(max(A.shape[-1], 1))  # that of Kaiming's uniform initialization with a = √5
        nn.init.uniform_(A, -bound, bound)
        nn.init.zeros_(B)
