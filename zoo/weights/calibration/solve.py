"""Choose the codes of one weight from how it was used."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zoo.weights.calibration.gptq import factorize, gptq, output_error
from zoo.weights.calibration.levels import Grid, ranks_of, with_ranks
from zoo.weights.calibration.observe import Site
from zoo.weights.calibration.outputs import WeightError
from zoo.weights.error import relative_error
from zoo.weights.quantized_tensor import QuantizedTensor

TIED = 1.0  # of the mean of H's diagonal, added where rows of the weight are looked up too
PIECE = 1 << 21  # values that are rounded at once: rows do not depend on each other


def solve(
    weight: Tensor, packed: QuantizedTensor, grid: Grid, sites: Sequence[Site], looked_up: bool = False
) -> tuple[QuantizedTensor, WeightError]:
    """Round a weight by the inputs of its uses.

    Where several uses see the same matrices, their inputs count together; where they see a weight in different ways,
    such as a slice of it in one place and all of it in another, each value is rounded by the use of most inputs.

    Where rows of a weight are looked up too, as in an embedding tied to the head, its own errors count beside those of
    the products. Measured on the embedded bert, held-out loss 3.165 in full precision and 3.206 without data: 3.231 by
    the products alone, 3.192 so.

    Args:
        weight: in full precision.
        packed: the weight quantized without data: its format, its scales, and the codes of values that no use covers.
        grid: of `packed`.
        sites: its uses.
        looked_up: whether rows of it are looked up as well.

    Returns:
        The weight in the same format, and its errors.
    """
    flat = weight.detach().reshape(-1).float()
    ranks = ranks_of(packed, grid)
    rounded = _values(grid, ranks)
    is_done = torch.zeros(len(flat), dtype=torch.bool, device=flat.device)
    before = after = whole = 0.0
    for matrices, hessian in _merged(sites):
        factors = factorize(_with_diagonal(hessian, TIED) if looked_up else hessian)
        step = max(1, PIECE // max(1, matrices.shape[0] * matrices.shape[2]))
        for start in range(0, matrices.shape[1], step):
            index = matrices[:, start : start + step].long()  # (G, rows, C)
            values = flat[index]
            found = gptq(values, factors, grid.scales[index // grid.block], grid.levels)
            fresh = ~is_done[index]
            ranks[index[fresh]] = found[fresh]
            is_done[index] = True
            chosen = _values(grid, ranks, index)
            whole += float(output_error(values, hessian))
            before += float(output_error(rounded[index] - values, hessian))
            after += float(output_error(chosen - values, hessian))
    relative = [(max(error, 0.0) / whole) ** 0.5 if whole > 0 else 0.0 for error in (before, after)]
    made = with_ranks(packed, grid, ranks)
    made.error = relative_error(made, weight.detach())
    return made, WeightError(*relative)


def _with_diagonal(hessian: Tensor, share: float) -> Tensor:
    """Return a Hessian (G, C, C) to which a share of its diagonal's mean is added."""
    added = share * hessian.diagonal(dim1=1, dim2=2).mean(1)  # (G,)
    return hessian + torch.diag_embed(added[:, None].expand(hessian.shape[:2]))


def _values(grid: Grid, ranks: Tensor, index: Tensor | None = None) -> Tensor:
    """Return what ranks stand for, all of them (N,) or those at an index."""
    if index is None:
        every = torch.arange(len(ranks), device=ranks.device)
        return grid.levels[ranks.long()] * grid.scales[every // grid.block]
    return grid.levels[ranks[index].long()] * grid.scales[index // grid.block]


def _merged(sites: Sequence[Site]) -> list[tuple[Tensor, Tensor]]:
    """Return the different matrices with the sums of their Hessians, those of most inputs first."""
    found: list[tuple[Tensor, Tensor]] = []
    for site in sites:
        matrices, hessian = site.matrices(), site.hessian
        if hessian is None:
            continue
        if len(matrices) > 1 and bool((matrices == matrices[:1]).all()):  # one matrix, copied for each of a batch
            matrices, hessian = matrices[:1], hessian.sum(0, keepdim=True)
        for number, (known, own) in enumerate(found):
            if known.shape == matrices.shape and torch.equal(known, matrices):
                found[number] = known, own + hessian
                break
        else:
            found.append((matrices, hessian))
    return sorted(found, key=lambda pair: -float(pair[1].diagonal(dim1=1, dim2=2).sum()) * pair[0].shape[1])
