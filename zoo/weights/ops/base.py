"""Shared by all operations on a managed weight: the base's tensors, the compute dtype, and folding ΔW into the weight.

Notation, here and in the other files of this folder:
    W      the weight as a matrix (rows, columns): rows is its first dimension, columns all the others
    left   (rows, rank)       right  (rank, columns)       ΔW = scale · left @ right
    x, y   a layer's input and output              g  the gradient of y
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active as transforms_active  # noqa: F401 - used by the operations
from torch._C import _is_any_autocast_enabled as any_autocast

from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.quantized_tensor import Codec
from zoo.weights.triton import fused
from zoo.weights.triton.paths import enabled
from zoo.weights.update import Factors

# Channels last, by the dimensions of an input; three have no such format.
_LAST = {3: torch.contiguous_format, 4: torch.channels_last, 5: torch.channels_last_3d}
SMALL = 1 << 14  # up to this many values, a weight's cost is the number of operations, not its size


class BaseTensors(NamedTuple):
    """The base weight in the form that an autograd function can save.

    Attributes:
        codec: Dequantizes `tensors`; None if they are the dense weight.
        shape: The weight's shape.
        tensors: The tensors to save for the backward pass.
    """

    codec: Codec | None
    shape: torch.Size
    tensors: tuple[Tensor, ...]


def base_tensors(managed: ManagedWeight, dense: Tensor | None = None) -> BaseTensors:
    """Return the current base. Its tensors are looked up at every use and never kept.

    Args:
        managed: The weight.
        dense: Its `effective_base()`, if the caller has just looked that up.
    """
    dense = managed.effective_base() if dense is None else dense
    if dense is not None:
        return BaseTensors(None, managed.shape, (dense,))
    packed = managed.quantized_base()
    return BaseTensors(packed.codec, managed.shape, packed.tensors())


def dense_of(
    codec: Codec | None,
    shape: torch.Size,
    dtype: torch.dtype,
    tensors: tuple[Tensor, ...],
    like: Tensor | None = None,
) -> Tensor:
    """Return the dense base in `dtype`; a fresh tensor if there is a codec.

    Where a kernel of ours unpacks it, it has the memory format of `like`, a convolution's input.
    """
    if codec is None:
        weight = tensors[0]
        return weight if weight.dtype is dtype else weight.to(dtype)
    if enabled(tensors[0].device):
        last = like is not None and not like.is_contiguous() and like.is_contiguous(memory_format=_LAST[like.dim()])
        unpacked = fused.unpack(codec, shape, dtype, tensors, last)
        if unpacked is not None:
            return unpacked
    return codec.unpack(tensors, shape, dtype)


def fold(codec: Codec | None, shape: torch.Size, tensors: tuple[Tensor, ...], factors: Factors) -> Tensor:
    """Return W + scale · left @ right, dense, in the factors' dtype: no extra pass over the activations."""
    left, right, scale = factors
    weight = dense_of(codec, shape, left.dtype, tensors)
    matrix = weight if len(shape) == 2 else weight.reshape(shape[0], -1)  # (rows, columns); may be channels_last
    # A scale of 1 is the common one, and an argument the less.
    if codec is None or torch.is_grad_enabled():
        folded = torch.addmm(matrix, left, right) if scale == 1.0 else torch.addmm(matrix, left, right, alpha=scale)
    else:
        folded = matrix.addmm_(left, right) if scale == 1.0 else matrix.addmm_(left, right, alpha=scale)
    return folded if len(shape) == 2 else folded.view(shape)


def join(factors: list[Factors], dtype: torch.dtype) -> Factors | None:
    """Return several low-rank updates as one, in `dtype`; None for none."""
    if not factors:
        return None
    if len(factors) == 1:
        left, right, scale = only = factors[0]
        return only if left.dtype is dtype else Factors(left.to(dtype), right.to(dtype), scale)
    left = torch.cat([one.left.to(dtype) * one.scale for one in factors], dim=1)  # (rows, sum of ranks)
    right = torch.cat([one.right.to(dtype) for one in factors])  # (sum of ranks, columns)
    return Factors(left, right, 1.0)


def compute_dtype(x: Tensor, dtype: torch.dtype) -> torch.dtype | None:
    """Return the dtype that an active autocast gives to this operation, or None if none is active for it."""
    if not any_autocast():
        return None
    device = x.device.type
    if torch.is_autocast_enabled(device) and x.is_floating_point() and torch.float64 not in (x.dtype, dtype):
        return torch.get_autocast_dtype(device)
    return None


def needs_graph(x: Tensor, bias: Tensor | None, base: BaseTensors, factors: Factors | None) -> bool:
    """Return whether a backward pass could need any gradient of this operation."""
    if not torch.is_grad_enabled():
        return False
    return (
        (factors is not None and (factors.left.requires_grad or factors.right.requires_grad))
        or x.requires_grad
        or (bias is not None and bias.requires_grad)
        or base.tensors[0].requires_grad
    )


def add_product(y: Tensor, first: Tensor, second: Tensor, scale: float) -> Tensor:
    """Return y + scale · first @ second.

    The sum is written into `y`, which must be the caller's own tensor, unless a graph needs it.
    """
    if torch.is_grad_enabled():
        return torch.addmm(y, first, second, alpha=scale)
    return y.addmm_(first, second, alpha=scale)


def fresh(y: Tensor) -> Tensor:
    """Return `y`, the caller's own tensor, as one that autograd does not take for a view of another tensor.

    `torch.nn.functional.linear` views the product of flattened inputs. A view that an autograd function returns, or
    that was made without gradients, cannot be changed in place later (`nn.ReLU(inplace=True)`).
    """
    return torch.ops.aten._unsafe_view.default(y, y.shape)


def prefer_folding(positions: int, rows: int, columns: int, dtype: torch.dtype) -> bool:
    """Return whether ΔW should be added to the weight rather than applied separately to the activations.

    Folding costs passes over the weight, applying it separately costs passes over the activations. Only in float32 and
    float64: in 16 bits the sum W + ΔW would lose a small ΔW to rounding. Small weights always fold: it is one operation
    less.

    Measured on one CPU thread in float32, time of a step separate ÷ folded at rank 4, 16 and 64: Linear(768) at 64
    tokens .87 .86 .66, at 256 .94 .94 .91, at 1,024 .99 1.00 1.06, at 4,096 1.03 .99 1.11; Linear(1024) at 256 .91 .95
    .89, at 1,024 1.00 1.01 1.03; Linear(256) at 256 .97 .90 1.16, at 1,024 1.09 .95 1.14. The two break even if there
    are about as many positions as features, at every rank. The same rule fits 3×3 convolutions (forward pass, C=128,
    32², batch 4: 1.50× the plain one if separate, 1.15× if folded; C=256, 8², batch 2: 1.14× and 1.17×).

    Args:
        positions: The number of rows of x: batch size times sequence length or image size.
        rows: Rows of W.
        columns: Columns of W.
        dtype: The compute dtype.
    """
    if dtype is not torch.float32 and dtype is not torch.float64:
        return False
    size = rows * columns
    return size <= SMALL or positions * (rows + columns) >= 2 * size


def prefer_dense_gradient(rows: int, columns: int, dtype: torch.dtype) -> bool:
    """Return whether both factors' gradients are computed from the dense weight's.

    That takes fewer operations but more arithmetic, so only for small weights; never in 16 bits.
    """
    return rows * columns <= SMALL and (dtype is torch.float32 or dtype is torch.float64)
