"""GPTQ (arXiv 2210.17323): rounding column by column, where later columns make up for the errors of earlier ones.

Notation for shapes:
    G     matrices that are rounded at once, such as the groups of a convolution
    R, C  rows (outputs) and columns (inputs) of each
    L     levels of the format

The Hessian of a matrix W is the second moment of its inputs X, H = X·Xᵀ: the error of the outputs is the trace of
(W − Q)·H·(W − Q)ᵀ.
"""

from __future__ import annotations

import torch
from torch import Tensor

DAMPING = 0.01  # of the mean of H's diagonal, added to the diagonal; ten times more where H is still singular
BLOCK = 128  # columns whose errors reach the columns after them at once
WIDE = 2048  # columns from which on H is factorized in float32: bounds the memory


def factorize(hessian: Tensor) -> tuple[Tensor, Tensor]:
    """Return the order in which columns are rounded, and what each one's error does to those after it.

    Columns of large inputs come first, as long as most columns are left to make up for their errors.

    Args:
        hessian: (G, C, C).

    Returns:
        order (G, C), and the upper Cholesky factor of the inverse of H in this order, float32 (G, C, C).
    """
    columns = hessian.shape[-1]
    dtype = torch.float64 if columns <= WIDE else torch.float32
    diagonal = hessian.diagonal(dim1=1, dim2=2).to(dtype)  # (G, C)
    order = torch.argsort(diagonal, dim=1, descending=True, stable=True)
    mean = diagonal.mean(dim=1)  # (G,)
    mean = torch.where(mean > 0, mean, torch.ones_like(mean))
    damping = torch.full_like(mean, DAMPING)
    for _ in range(12):
        h = _arranged(hessian, order, dtype)
        h.diagonal(dim1=1, dim2=2).clamp_(min=0).add_((damping * mean)[:, None])
        h, info = _cholesky(h, upper=False)
        if not bool(info.any()):
            break
        damping = torch.where(info > 0, damping * 10, damping)
    h = torch.cholesky_inverse(h, out=h) if h.device.type == "cpu" else torch.cholesky_inverse(h)
    upper, info = _cholesky(h, upper=True)
    bad = (info > 0) | ~torch.isfinite(upper.sum(dim=(1, 2)))  # a sum needs no memory, and shows NaN and Inf
    if bool(bad.any()):  # inputs beyond what floats hold: no compensation
        identity = torch.eye(columns, dtype=dtype, device=upper.device).expand_as(upper)
        upper = torch.where(bad[:, None, None], identity, upper)
    return order, upper.float()


def _arranged(hessian: Tensor, order: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a Hessian (G, C, C) with rows and columns in an order (G, C): a new tensor, each matrix column by column.

    A few rows at once: a wide weight's Hessian is large, and so is each copy of it.
    """
    h = torch.empty_like(hessian, dtype=dtype, memory_format=torch.contiguous_format)
    columns = order[:, None, :]
    for start in range(0, h.shape[1], BLOCK):
        rows = order[:, start : start + BLOCK, None]
        part = hessian.gather(1, rows.expand(-1, -1, h.shape[2]))
        h[:, start : start + BLOCK] = part.gather(2, columns.expand(-1, rows.shape[1], -1))
    return h.mT  # it is symmetric, and LAPACK works on columns


def _cholesky(h: Tensor, upper: bool) -> tuple[Tensor, Tensor]:
    """Return the Cholesky factor of each matrix, in its place on the CPU, and for which ones there is none."""
    if h.device.type != "cpu":
        return torch.linalg.cholesky_ex(h, upper=upper)
    info = torch.empty(h.shape[:1], dtype=torch.int32)
    torch.linalg.cholesky_ex(h, upper=upper, out=(h, info))
    return h, info


def nearest(values: Tensor, scales: Tensor, levels: Tensor) -> Tensor:
    """Return the rank of the level that is nearest to each value, int64, of the values' shape."""
    middle = (levels[1:] + levels[:-1]) / 2
    return torch.bucketize(values / scales.clamp(min=1e-38), middle)


def gptq(weight: Tensor, factors: tuple[Tensor, Tensor], scales: Tensor, levels: Tensor) -> Tensor:
    """Round matrices so that the error of their outputs is small.

    Args:
        weight: float32 (G, R, C).
        factors: of their Hessians, see `factorize`.
        scales: of every value, float32 (G, R, C).
        levels: ascending, float32 (L,).

    Returns:
        The chosen levels' ranks, uint8 (G, R, C).
    """
    order, upper = factors
    columns = weight.shape[2]
    picked = order[:, :, None].expand(-1, -1, weight.shape[1])  # (G, C, R)
    left = weight.mT.gather(1, picked)  # (G, C, R): what is still to be rounded
    scales = scales.mT.gather(1, picked)
    ranks = torch.empty(left.shape, dtype=torch.uint8, device=weight.device)
    for start in range(0, columns, BLOCK):
        stop = min(start + BLOCK, columns)
        errors = torch.empty_like(left[:, start:stop])
        for column in range(start, stop):
            value, scale = left[:, column], scales[:, column]  # (G, R)
            rank = nearest(value, scale, levels)
            ranks[:, column] = rank
            error = (value - levels[rank] * scale) / upper[:, column, column, None]
            errors[:, column - start] = error
            if column + 1 < stop:
                left[:, column + 1 : stop].baddbmm_(
                    upper[:, column, column + 1 : stop, None], error[:, None, :], alpha=-1
                )
        if stop < columns:
            left[:, stop:].baddbmm_(upper[:, start:stop, stop:].mT, errors, alpha=-1)
    back = torch.empty_like(ranks).scatter_(1, picked, ranks)
    return back.mT


def output_error(difference: Tensor, hessian: Tensor) -> Tensor:
    """Return the squared norm of the outputs' error for a difference of weights (G, R, C): the sum of d·H·dᵀ."""
    return (difference.bmm(hessian.to(difference.dtype)) * difference).sum(dtype=torch.float64)
