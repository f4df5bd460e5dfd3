"""Second moments of the inputs of every kind of operation, against those by explicit columns of the operation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.weights.calibration.observe import Observer
from zoo.weights.calibration.watch import Watch

Operation = Callable[[Tensor, Tensor], Tensor]  # input, weight → output


def observed(operation: Operation, x: Tensor, weight: Tensor) -> Observer:
    observer = Observer({"w": weight})
    with torch.no_grad(), observer:
        operation(x, weight)
    return observer


def error_by_hessian(observer: Observer, difference: Tensor) -> Tensor:
    """Return the squared norm of the outputs' change as the Hessians have it."""
    total = torch.zeros((), dtype=torch.float64)
    for site in observer.sites["w"].values():
        matrices = site.matrices().long()
        hessian = site.hessian
        assert hessian is not None
        if len(matrices) != len(hessian):
            raise AssertionError(f"{matrices.shape} and {hessian.shape}")
        d = difference.reshape(-1)[matrices]
        total += ((d @ hessian) * d).sum().double()
    return total


OPERATIONS: dict[str, tuple[Operation, tuple[int, ...], tuple[int, ...]]] = {
    "linear": (F.linear, (2, 5, 6), (4, 6)),
    "linear of strided inputs": (lambda x, w: F.linear(x.transpose(0, 1), w), (2, 5, 6), (4, 6)),
    "linear of one vector": (F.linear, (6,), (4, 6)),
    "matmul": (lambda x, w: x @ w, (2, 5, 6), (6, 4)),
    "matmul from the left": (lambda x, w: w @ x, (6, 5), (4, 6)),
    "matrix times vector": (lambda x, w: w @ x, (6,), (4, 6)),
    "vector of a weight": (lambda x, w: x @ w[1], (5, 6), (4, 6)),
    "batched matmul from the left": (lambda x, w: w @ x, (3, 6, 5), (4, 6)),
    "addmm": (lambda x, w: torch.addmm(x.new_zeros(4), x, w), (5, 6), (6, 4)),
    "baddbmm": (lambda x, w: torch.baddbmm(x.new_zeros(3, 5, 4), x, w), (3, 5, 6), (3, 6, 4)),
    "einsum of a stack": (lambda x, w: torch.einsum("gni,gio->gno", x, w), (3, 5, 6), (3, 6, 4)),
    "slices": (lambda x, w: torch.cat([F.linear(x, one) for one in w.chunk(2)], -1), (5, 6), (4, 6)),
    "a scaled copy": (lambda x, w: F.linear(x, w.t().contiguous().t() * 1.0), (5, 6), (4, 6)),
    "twice": (lambda x, w: torch.cat([F.linear(x, w), F.linear(2 * x, w)]), (5, 6), (4, 6)),
    "conv1d": (lambda x, w: F.conv1d(x, w, stride=2, padding=1, dilation=2), (2, 4, 11), (6, 4, 3)),
    "conv2d": (lambda x, w: F.conv2d(x, w, padding=(1, 0), stride=(2, 1)), (2, 4, 7, 6), (6, 4, 3, 2)),
    "conv2d of groups": (lambda x, w: F.conv2d(x, w, groups=2), (2, 4, 7, 6), (6, 2, 3, 2)),
    "depthwise": (lambda x, w: F.conv2d(x, w, padding=1, groups=4), (2, 4, 7, 6), (4, 1, 3, 3)),
    "conv3d": (F.conv3d, (1, 2, 4, 5, 4), (3, 2, 2, 3, 2)),
    "conv without a batch": (F.conv1d, (4, 11), (6, 4, 3)),
    "conv_transpose1d": (lambda x, w: F.conv_transpose1d(x, w, stride=3, padding=1), (2, 4, 5), (4, 3, 4)),
    "conv_transpose2d": (
        lambda x, w: F.conv_transpose2d(x, w, stride=2, padding=(0, 1), output_padding=1, groups=2, dilation=(2, 1)),
        (2, 4, 5, 4),
        (4, 3, 2, 3),
    ),
    "conv_transpose2d, cropped": (lambda x, w: F.conv_transpose2d(x, w, padding=3), (1, 2, 6, 6), (2, 3, 2, 2)),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_hessian_says_how_much_a_change_of_the_weight_changes_the_outputs(name: str) -> None:
    operation, inputs, shape = OPERATIONS[name]
    x, weight = torch.randn(inputs), torch.randn(shape)
    observer = observed(operation, x, weight)
    assert observer.sites["w"]
    for _ in range(3):
        change = torch.randn(shape)
        expected = operation(x.double(), change.double()).square().sum()  # all of them are linear in the weight
        assert torch.isclose(error_by_hessian(observer, change), expected, rtol=1e-4)


def test_the_hessian_of_an_expanded_matrix_is_one() -> None:
    """As torch.matmul computes it where the weight is on the left of a batch."""
    x, weight = torch.randn(3, 6, 5), torch.randn(4, 6)
    observer = observed(lambda x, w: w.expand(3, 4, 6).bmm(x), x, weight)
    (site,) = observer.sites["w"].values()
    assert site.matrices().shape == (1, 4, 6)
    assert site.hessian is not None
    assert torch.allclose(site.hessian[0], sum(one @ one.mT for one in x), atol=1e-4)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrences_show_the_inputs_of_every_step(kind: type[nn.RNNBase]) -> None:
    layer, x = kind(5, 7, batch_first=True), torch.randn(3, 6, 5)
    weights = {"ih": layer.weight_ih_l0, "hh": layer.weight_hh_l0}
    observer, watch = Observer(weights), Watch()
    watch.start([])
    with torch.no_grad(), observer, watch:
        y, _ = layer(x)
    hidden = torch.cat([torch.zeros(3, 1, 7), y[:, :-1]], dim=1)
    for name, inputs in (("ih", x), ("hh", hidden)):
        (site,) = observer.sites[name].values()
        flat = inputs.detach().reshape(-1, inputs.shape[-1])
        assert site.hessian is not None
        assert torch.allclose(site.hessian[0], flat.T @ flat, atol=1e-4)
        assert torch.equal(site.matrices()[0].long().view(-1), torch.arange(weights[name].numel()))


def test_backward_passes_and_other_tensors_are_not_observed() -> None:
    x, weight = torch.randn(5, 6, requires_grad=True), torch.randn(4, 6)
    observer = Observer({"w": weight})
    with observer:
        F.linear(x, weight).sum().backward()
        F.linear(x, torch.randn(4, 6))
    (site,) = observer.sites["w"].values()
    assert site.hessian is not None
    assert torch.allclose(site.hessian[0], (x.T @ x).detach(), atol=1e-5)


def test_look_ups_are_noted() -> None:
    for lookup in (lambda i, w: F.embedding(i, w), lambda i, w: w[i], lambda i, w: F.embedding_bag(i[None], w)):
        observer = observed(lookup, torch.tensor([1, 3]), torch.randn(4, 6))
        assert (observer.looked_up, observer.sites["w"]) == ({"w"}, {})
