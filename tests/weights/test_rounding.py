"""The rounding of convolutions in 8 bit."""

import math

import pytest
import torch

import zoo
from zoo.weights.codecs import pack
from zoo.weights.rounding import CORRELATION, MOST_TAPS, kernel_of, round_kernels, round_rows


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((8, 4, 3, 3), (3, 3)),
        ((8, 1, 5, 5), (5, 5)),
        ((8, 4, 7), (7,)),
        ((4, 2, 3, 2, 2), (3, 2, 2)),
        ((8, 4, 1, 1), (1, 1)),
        ((8, 4), None),
        ((1, 1, 9), None),
        ((2, 2, 64, 64), None),
    ],
)
def test_kernels_are_known_by_their_shape(shape, expected):
    assert kernel_of(torch.Size(shape)) == expected
    assert math.prod(shape[2:]) <= MOST_TAPS or expected is None


def _cost(error: torch.Tensor, kernel: tuple[int, ...]) -> float:
    """Return the mean squared error of the outputs for inputs whose correlation falls with the distance."""
    places = torch.cartesian_prod(*[torch.arange(size, dtype=torch.float64) for size in kernel]).view(-1, len(kernel))
    moment = CORRELATION ** torch.cdist(places, places)
    rows = error.double().reshape(-1, moment.shape[0])
    return float(((rows @ moment) * rows).sum())


@pytest.mark.parametrize("kernel", [(3, 3), (5, 5), (7,), (2, 3, 2), (4, 2)])
def test_the_errors_of_a_kernel_cancel(kernel):
    values = 20 * torch.randn(200, math.prod(kernel))
    rounded = round_kernels(values, kernel)
    assert torch.equal(rounded, rounded.round())
    assert rounded.abs().max() <= 127
    assert _cost(rounded - values, kernel) < 0.5 * _cost(values.round() - values, kernel)


def test_rounding_follows_a_plain_reference_in_float64():
    kernel, values = (3, 3), 20 * torch.randn(50, 9)
    places = torch.cartesian_prod(torch.arange(3.0), torch.arange(3.0)).double()
    moment = CORRELATION ** torch.cdist(places, places)
    left = values.double()
    expected = torch.empty_like(left)
    for tap in range(9):
        expected[:, tap] = left[:, tap].round()
        error = left[:, tap] - expected[:, tap]
        rest = moment[tap + 1 :, tap + 1 :]
        # The later taps' best answer to an error of this one, by least squares over all that is left.
        left[:, tap + 1 :] += error[:, None] * torch.linalg.solve(rest, moment[tap + 1 :, tap])
    assert torch.equal(round_kernels(values, kernel).double(), expected)


@pytest.mark.parametrize("shape", [(16, 8, 3, 3), (32, 1, 5, 5), (300, 200, 3), (6, 5, 2, 2, 2)])
def test_packed_kernels_keep_the_weights_sum_better(shape):
    weight = torch.randn(shape)
    stored = pack(weight, zoo.Quantization(8))
    largest = weight.reshape(shape[0], -1).abs().amax(1)
    nearest = (weight.reshape(shape[0], -1) * (127 / largest)[:, None]).round() * (largest / 127)[:, None]
    sums = (stored() - weight).flatten(2).sum(2), (nearest.view(shape) - weight).flatten(2).sum(2)
    assert sums[0].norm() < 0.7 * sums[1].norm()
    assert (stored() - weight).norm() < 1.5 * (nearest.view(shape) - weight).norm()


def test_rows_without_values_and_single_values_survive():
    weight = torch.zeros(4, 3, 3, 3)
    weight[1, 0, 1, 1] = 1e-30
    assert torch.isfinite(pack(weight, zoo.Quantization(8))()).all()
    with pytest.raises(zoo.QuantizationError, match="NaN or Inf"):
        pack(torch.full((4, 3, 3, 3), math.nan), zoo.Quantization(8))


@pytest.mark.parametrize("spread", [0.6, 40.0])
def test_a_rows_sum_is_kept_and_each_value_moves_by_less_than_one_step(spread):
    values = (spread * torch.randn(40, 300)).clamp(-127, 127)
    rounded = round_rows(values)
    assert torch.equal(rounded, rounded.round())
    assert rounded.abs().max() <= 127
    assert (rounded - values).abs().max() < 1
    assert (rounded - values).double().sum(1).abs().max() <= 0.501
    assert (values.round() - values).double().sum(1).abs().max() > 2  # rounding each by itself
    assert (rounded - values).norm() < 1.1 * (values.round() - values).norm()


def test_rounding_rows_flips_the_values_that_lose_least():
    values = torch.tensor([[0.4, 0.45, 0.1, 0.3, -0.2], [1.6, 2.6, -0.45, 7.0, 0.0], [1.0, -2.0, 3.0, 4.0, 5.0]])
    expected = [[0, 1, 0, 0, 0], [2, 3, -1, 7, 0], [1, -2, 3, 4, 5]]
    assert round_rows(values).tolist() == expected


def test_one_by_one_convolutions_keep_the_sums_of_their_rows_in_8_bit():
    weight = torch.randn(64, 96, 1, 1)
    largest = weight.flatten(1).abs().amax(1)
    moved = pack(weight, zoo.Quantization(8))() - weight
    assert (moved.flatten(1).sum(1).abs() <= 0.51 * largest / 127).all()
