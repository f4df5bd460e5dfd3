"""What every operation on a managed weight needs: the weight as raw material, its types, and folding.

Notation, here and in the other files of this folder:
    W      the weight as a matrix (rows, columns): rows is its first dimension, columns all the others
    left   (rows, rank)       right  (rank, columns)       ΔW = scale · left @ right
    x, y   a layer's input and output              g  the gradient of y
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active as transforms_active  # noqa: F401 - for the operations

from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.quantized_tensor import Codec
from zoo.weights.update import Factors

SMALL = 1 << 14  # values of a weight so small that what counts is how many operations there are


class BaseTensors(NamedTuple):
    """A base weight that an autograd function can carry: tensors to save, and how to make them dense again."""

    codec: Codec | None
    shape: torch.Size
    tensors: tuple[Tensor, ...]


def base_tensors(store: ManagedWeight) -> BaseTensors:
    """The store's base as it is now. Its tensors are looked up at every use and never kept."""
    dense = store.effective_base()
    if dense is not None:
        return BaseTensors(None, store.shape, (dense,))
    packed = store.quantized_base()
    return BaseTensors(packed.codec, store.shape, packed.tensors())


def dense_of(codec: Codec | None, shape: torch.Size, dtype: torch.dtype, tensors: tuple[Tensor, ...]) -> Tensor:
    """The dense base in `dtype`; a fresh tensor if there is a codec."""
    if codec is None:
        weight = tensors[0]
        return weight if weight.dtype is dtype else weight.to(dtype)
    return codec.unpack(tensors, shape, dtype)


def fold(codec: Codec | None, shape: torch.Size, tensors: tuple[Tensor, ...], factors: Factors) -> Tensor:
    """W + scale · left @ right, dense, in the factors' type: no extra pass over the activations."""
    left, right, scale = factors
    weight = dense_of(codec, shape, left.dtype, tensors)
    matrix = weight if len(shape) == 2 else weight.reshape(shape[0], -1)  # may be channels_last
    if codec is None or torch.is_grad_enabled():
        folded = torch.addmm(matrix, left, right, alpha=scale)
    else:
        folded = matrix.addmm_(left, right, alpha=scale)
    return folded if len(shape) == 2 else folded.view(shape)


def join(factors: list[Factors], dtype: torch.dtype) -> Factors | None:
    """Several low-rank updates as one, in `dtype`; None for none."""
    if not factors:
        return None
    if len(factors) == 1:
        left, right, scale = only = factors[0]
        return only if left.dtype is dtype else Factors(left.to(dtype), right.to(dtype), scale)
    left = torch.cat([one.left.to(dtype) * one.scale for one in factors], dim=1)
    right = torch.cat([one.right.to(dtype) for one in factors])
    return Factors(left, right, 1.0)


def compute_dtype(x: Tensor, dtype: torch.dtype) -> torch.dtype | None:
    """The type that an active autocast gives to this operation, or None where none is active for it."""
    device = x.device.type
    if torch.is_autocast_enabled(device) and x.is_floating_point() and torch.float64 not in (x.dtype, dtype):
        return torch.get_autocast_dtype(device)
    return None


def needs_graph(x: Tensor, bias: Tensor | None, base: BaseTensors, factors: Factors | None) -> bool:
    """Whether a backward pass could ask for any gradient of this operation."""
    if not torch.is_grad_enabled():
        return False
    return (
        (factors is not None and (factors.left.requires_grad or factors.right.requires_grad))
        or x.requires_grad
        or (bias is not None and bias.requires_grad)
        or base.tensors[0].requires_grad
    )


def add_product(y: Tensor, first: Tensor, second: Tensor, scale: float) -> Tensor:
    """y + scale · first @ second, written into `y`, a tensor of the caller's own, unless a graph needs it."""
    if torch.is_grad_enabled():
        return torch.addmm(y, first, second, alpha=scale)
    return y.addmm_(first, second, alpha=scale)


def prefer_folding(positions: int, rows: int, columns: int, dtype: torch.dtype) -> bool:
    """Whether ΔW should be added to the weight rather than run beside it.

    Folding costs passes over the weight, running beside it passes over the activations. Only in float32 and float64:
    in 16 bits the sum W + ΔW would lose a small ΔW to rounding. Small weights always fold: it is one operation less.

    Measured on one CPU thread in float32, step beside ÷ step folded at rank 4, 16 and 64: Linear(768) at 64 tokens
    .87 .86 .66, at 256 .94 .94 .91, at 1,024 .99 1.00 1.06, at 4,096 1.03 .99 1.11; Linear(1024) at 256 .91 .95 .89,
    at 1,024 1.00 1.01 1.03; Linear(256) at 256 .97 .90 1.16, at 1,024 1.09 .95 1.14. They are even where there are
    about as many positions as features, at every rank. The same rule fits 3×3 convolutions (forward, C=128, 32²,
    batch 4: 1.50× the plain one beside it, 1.15× folded; C=256, 8², batch 2: 1.14× and 1.17×).
    """
    if dtype is not torch.float32 and dtype is not torch.float64:
        return False
    size = rows * columns
    return size <= SMALL or positions * (rows + columns) >= 2 * size


def prefer_dense_gradient(rows: int, columns: int, dtype: torch.dtype) -> bool:
    """Whether both factors' gradients come from the dense weight's: fewer operations, more work; not in 16 bits."""
    return rows * columns <= SMALL and (dtype is torch.float32 or dtype is torch.float64)
