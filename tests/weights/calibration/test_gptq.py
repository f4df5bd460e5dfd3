"""GPTQ against a dense reference in float64, and the formats that it rounds into."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from zoo.weights.calibration.gptq import DAMPING, factorize, gptq, nearest, output_error
from zoo.weights.calibration.levels import grid_of, ranks_of, with_ranks
from zoo.weights.codecs import StoredFloat, pack
from zoo.weights.quantized_tensor import QuantizedTensor
from zoo.weights.scheme import Quantization

SCHEMES = (
    Quantization(4),
    Quantization(4, "fp4", 128, double=False),
    Quantization(8),
    Quantization(8, "dynamic8", 64),
)


def reference(weight: Tensor, hessian: Tensor, scales: Tensor, levels: Tensor) -> Tensor:
    """Round one matrix column by column in float64; every error is spread by an inverse that is computed afresh."""
    h = hessian.double()
    h = h + DAMPING * h.diagonal().mean() * torch.eye(len(h), dtype=torch.float64)
    left, found = weight.double().clone(), torch.zeros(weight.shape, dtype=torch.uint8)
    rest = sorted(range(len(h)), key=lambda column: -float(hessian[column, column]))
    while rest:
        inverse = torch.linalg.inv(h[rest][:, rest])
        column = rest[0]
        distance = (left[:, column, None] - levels.double() * scales[:, column, None].double()).abs()
        found[:, column] = distance.argmin(1)
        chosen = levels[found[:, column].long()].double() * scales[:, column].double()
        error = (left[:, column] - chosen) / inverse[0, 0]
        left[:, rest] -= error[:, None] * inverse[0]
        rest = rest[1:]
    return found


def correlated(columns: int, n: int = 400) -> Tensor:
    return torch.randn(columns, columns) @ torch.diag(torch.linspace(2, 0.1, columns)) @ torch.randn(columns, n)


@pytest.mark.parametrize("columns", [7, 130, 300])  # fewer and more than are compensated at once
@pytest.mark.parametrize("bits", [4, 8])
def test_it_chooses_what_the_dense_reference_chooses(columns: int, bits: int) -> None:
    weight, x = torch.randn(3, 9, columns), torch.stack([correlated(columns) for _ in range(3)])
    hessian = x @ x.mT
    grid = grid_of(pack(weight, Quantization(bits)))
    assert grid is not None
    index = torch.arange(weight.numel()).view(weight.shape)
    scales = grid.scales[index // grid.block]
    found = gptq(weight, factorize(hessian), scales, grid.levels)
    expected = torch.stack([reference(weight[g], hessian[g], scales[g], grid.levels) for g in range(3)])
    # Near a tie float32 may fall the other way, and all that follows in the row with it.
    assert (found == expected).float().mean() > 0.95
    ranks = (found, expected, nearest(weight, scales, grid.levels))
    ours, dense, plain = (float(output_error(grid.levels[r.long()] * scales - weight, hessian)) for r in ranks)
    assert ours == pytest.approx(dense, rel=0.02)
    assert ours < 0.5 * plain


def test_singular_and_empty_inputs_are_rounded_too() -> None:
    weight, x = torch.randn(2, 5, 40), torch.randn(2, 40, 3)  # three inputs for forty columns
    x[1] = 0
    x[0, 7] = 0
    grid = grid_of(pack(weight, Quantization(4)))
    assert grid is not None
    scales = grid.scales[torch.arange(400).view(2, 5, 40) // grid.block]
    found = gptq(weight, factorize(x @ x.mT), scales, grid.levels)
    assert torch.equal(found[1].long(), nearest(weight, scales, grid.levels)[1])
    assert torch.isfinite(factorize(torch.full((1, 4, 4), 1e38))[1]).all()


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("shape", [(6, 64), (5, 7, 3), (1, 33), (300, 300)], ids=str)
def test_ranks_are_what_the_codec_stores(scheme: Quantization, shape: tuple[int, ...]) -> None:
    packed = pack(torch.randn(shape), scheme)
    grid = grid_of(packed)
    assert grid is not None
    ranks = ranks_of(packed, grid)
    every = torch.arange(len(ranks))
    values = grid.levels[ranks.long()] * grid.scales[every // grid.block]
    assert torch.allclose(values.view(shape), packed(), rtol=1e-6, atol=1e-7)
    same = with_ranks(packed, grid, ranks)
    assert all(torch.equal(a, b) for a, b in zip(same.tensors(), packed.tensors(), strict=True))
    other = torch.randint(len(grid.levels), ranks.shape, dtype=torch.uint8)
    wanted = grid.levels[other.long()] * grid.scales[every // grid.block]
    assert torch.allclose(with_ranks(packed, grid, other)().view(-1), wanted, rtol=1e-6, atol=1e-7)


def test_a_format_that_is_not_known_has_no_grid() -> None:
    values = {"values": torch.zeros(2, 2)}
    assert grid_of(QuantizedTensor(StoredFloat("bf16", 16), torch.Size((2, 2)), torch.float32, values)) is None
