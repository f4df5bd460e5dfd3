"""The Fisher information's diagonal and the costs from it, against exact references in float64."""

from __future__ import annotations

import copy
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import zoo
from zoo.catalog.entry import Entry
from zoo.plugin.plan import offered, plan
from zoo.plugin.quantize import pack_weight
from zoo.plugin.sensitivity import costs_of, measure_costs
from zoo.weights.fisher import output_losses, squared_gradients
from zoo.weights.scheme import as_quantization
from zoo.weights.walk import tied_groups

ENTRY = Entry(name="module", plugin=None, source="module")
SCHEME = as_quantization("auto:5")


def _weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {group.name: group.value for group in tied_groups(module)}


def test_costs_are_the_exact_change_of_a_quadratic_loss():
    """Of an embedding under a scaled square loss: each value is in one term, so that the diagonal is all there is."""
    table = nn.Embedding(50, 24, dtype=torch.float64)
    ids, scales = torch.randperm(50)[:30], torch.rand(30, 24, dtype=torch.float64) * 3
    (group,) = tied_groups(table)
    # Residuals of ±1 make the squared gradient of each term equal to its curvature.
    signs = torch.randint(2, (30, 24)).double() * 2 - 1
    target = (scales * table(ids)).detach() - signs

    def loss(weight: torch.Tensor) -> torch.Tensor:
        return 0.5 * (scales * F.embedding(ids, weight) - target).square().sum()

    found = measure_costs(ENTRY, table, [group], SCHEME, (loss(table.weight) for _ in range(3)))
    for label, width in offered(SCHEME, torch.float64).items():
        error = pack_weight(ENTRY, group, table.weight.detach(), {group.name: width}, torch.float64)() - table.weight
        first = (torch.autograd.grad(loss(table.weight), table.weight)[0] * error).sum()
        exact = loss(table.weight + error) - loss(table.weight) - first
        assert found["weight"][label] == pytest.approx(exact.item(), rel=1e-9)
    assert found["weight"]["4"] > 20 * found["weight"]["8"] > 20 * found["weight"]["16"] > 0


def test_projections_give_the_exact_diagonal_where_outputs_do_not_share_values():
    layer = nn.Linear(6, 5, dtype=torch.float64)
    x = torch.randn(1, 6, dtype=torch.float64)
    norm = layer(x).square().sum()
    squares = squared_gradients(layer, tied_groups(layer), output_losses(layer, [x], draws=2, seed=1))
    torch.testing.assert_close(squares["weight"], x.square().expand(5, 6) / norm)
    torch.testing.assert_close(squares["bias"], torch.ones(5, dtype=torch.float64) / norm)


def test_projections_converge_to_the_gauss_newton_diagonal():
    module = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 4)).double()
    x = torch.randn(6, 5, dtype=torch.float64)
    parameters = {name: value.detach() for name, value in module.named_parameters()}
    jacobian = torch.func.jacrev(lambda values: torch.func.functional_call(module, values, (x,)))(parameters)
    squares = squared_gradients(module, tied_groups(module), output_losses(module, [x], draws=3000))
    norm = module(x).square().sum()
    for name, found in squares.items():
        torch.testing.assert_close(found, jacobian[name].square().sum((0, 1)) / norm, rtol=0.25, atol=2e-3)


class Output(NamedTuple):
    first: torch.Tensor
    rest: dict[str, object]


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.unused = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> Output:
        return Output(self.one(x), {"two": [1000 * scale * self.two(x)], "ids": x.long(), "text": "none"})


@pytest.mark.parametrize("batch", [torch.ones(1, 4), (torch.ones(1, 4), 1.0), {"x": torch.ones(1, 4), "scale": 1.0}])
def test_batches_and_outputs_of_every_form(batch):
    module = Branches()
    squares = squared_gradients(module, tied_groups(module), output_losses(module, [batch]))
    for name in ("one", "two"):  # each output counts alike, whatever its size
        output = getattr(module, name)(torch.ones(1, 4))
        torch.testing.assert_close(squares[f"{name}.weight"], torch.ones(4, 4) / output.square().sum())
    assert not squares["unused.weight"].any()


def test_tied_weights_have_the_gradient_of_all_their_places():
    module = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    module[1].weight = module[0].weight
    loss = module(torch.randn(3, 4)).sum()
    (gradient,) = torch.autograd.grad(loss, module[0].weight, retain_graph=True)
    squares = squared_gradients(module, tied_groups(module), [loss])
    assert list(squares) == ["0.weight"]
    torch.testing.assert_close(squares["0.weight"], gradient.square())


def test_the_module_is_as_before():
    module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
    module.train()
    module[1].eval()
    module[3].bias.requires_grad_(False)
    module[0].weight.grad = torch.full((8, 4), 3.0)
    before = copy.deepcopy(module.state_dict())
    groups = [group for group in tied_groups(module) if group.name.endswith("weight")]
    x = torch.randn(5, 4)
    one = squared_gradients(module, groups, output_losses(module, [x, 2 * x], seed=3))
    state = torch.get_rng_state()
    two = squared_gradients(module, groups, output_losses(module, [x, 2 * x], seed=3))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    other = squared_gradients(module, groups, output_losses(module, [x, 2 * x], seed=4))
    assert not torch.equal(one["0.weight"], other["0.weight"])
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert [layer.training for layer in module] == [True, False, True, True]
    assert [p.requires_grad for p in module.parameters()] == [True] * 5 + [False]
    assert torch.equal(module[0].weight.grad, torch.full((8, 4), 3.0))
    assert all(p.grad is None for name, p in module.named_parameters() if name != "0.weight")
    (module(x).sum()).backward()  # no hook is left
    assert module[3].weight.grad is not None


def test_what_cannot_be_measured_is_said_and_nothing_changes():
    module = nn.Linear(4, 2)
    groups = tied_groups(module)
    with pytest.raises(zoo.DataError, match="at least one batch"):
        squared_gradients(module, groups, output_losses(module, []))
    with pytest.raises(zoo.QuantizationError, match="one that is nan"):
        squared_gradients(module, groups, [module(torch.full((1, 4), torch.nan)).sum()])
    with pytest.raises(zoo.QuantizationError, match="has no graph"):
        squared_gradients(module, groups, [torch.zeros(())])
    with pytest.raises(zoo.DataError, match="tensors of floats"):
        squared_gradients(nn.Identity(), [], output_losses(nn.Identity(), ["text"]))
    assert module.weight.grad is None
    assert not module.weight._post_accumulate_grad_hooks


def test_a_weight_that_the_outputs_hang_on_gets_the_bits():
    torch.manual_seed(0)
    module = nn.Sequential(*[nn.Linear(64, 64, bias=False) for _ in range(6)])
    module[4].weight.data[:, 1:] *= 1e-3  # its output hangs on one value of what module[3] gives
    x = torch.randn(128, 64)
    costs = measure_costs(ENTRY, module, tied_groups(module), SCHEME, output_losses(module, x.split(8)))
    chosen = plan(ENTRY, tied_groups(module), SCHEME, costs=costs)
    blind = plan(ENTRY, tied_groups(module), SCHEME)
    with torch.no_grad():
        full = module(x)

        def change(choice: dict[str, zoo.Quantization]) -> float:
            made = copy.deepcopy(module)
            for group in tied_groups(made):
                group.value.copy_(pack_weight(ENTRY, group, group.value, choice, torch.float32)())
            return float((made(x) - full).square().sum() / full.square().sum())

        assert change(chosen) < change(blind)


def test_measured_costs_predict_what_quantizing_one_weight_does():
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(48, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 32))
    x = torch.randn(64, 48)
    groups = [group for group in tied_groups(module) if group.name.endswith("weight")]
    costs = measure_costs(ENTRY, module, tied_groups(module), SCHEME, output_losses(module, [x], draws=60))
    with torch.no_grad():
        full = module(x)
        for group in groups:
            made = copy.deepcopy(module)
            packed = pack_weight(ENTRY, group, group.value, {group.name: zoo.Quantization(4)}, torch.float32)
            made.get_parameter(group.name).copy_(packed())
            exact = 0.5 * (made(x) - full).square().sum() / full.square().sum()
            assert costs[group.name]["4"] == pytest.approx(exact.item(), rel=0.35)


def test_costs_report_each_weight_and_leave_out_what_has_its_own_width():
    module = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    scheme = as_quantization({"1": 8, "all": "auto:12"}, keep=["2"])
    told: list[tuple[str, int, int]] = []
    losses = output_losses(module, [torch.randn(2, 8)])
    costs = measure_costs(ENTRY, module, tied_groups(module), scheme, losses, report=lambda *one: told.append(one))
    assert list(costs) == ["0.weight"]
    assert told == [("0.weight", 0, 1)]
    with pytest.raises(KeyError):
        costs_of(ENTRY, tied_groups(module), scheme, {})
