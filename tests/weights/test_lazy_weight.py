"""Lazy weights: what they return, what they refuse, and that no write to one is silently lost."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

import zoo
from zoo.errors import WeightError
from zoo.weights.lazy_weight import LazyWeight
from zoo.weights.walk import managed_weights
from zoo.weights.writes import IN_PLACE, names_in_place

BITS = [None, 8, 4]
quantized = pytest.mark.parametrize("bits", BITS)


def layer_and_model(bits: int | None) -> tuple[nn.Linear, zoo.Model]:
    layer = nn.Linear(12, 10)
    model = zoo.wrap(layer, bits=bits, lora=zoo.LoRA(rank=2, targets="all"))
    with torch.no_grad():
        for _, factor in model.trainable_parameters():
            factor.normal_(std=0.3)
    return layer, model


@quantized
def test_it_answers_as_the_tensor_it_stands_for(bits: int | None) -> None:
    layer, model = layer_and_model(bits)
    weight, dense = layer.weight, model.state_dict()["weight"]
    assert isinstance(weight, LazyWeight)
    assert isinstance(layer, nn.Linear)
    assert type(layer) is nn.Linear
    assert (weight.shape, weight.dtype, weight.device) == (dense.shape, dense.dtype, dense.device)
    assert (weight.size(), weight.size(1), weight.size(-1), weight.dim(), weight.ndim) == (dense.shape, 12, 12, 2, 2)
    assert (weight.numel(), weight.nelement(), weight.element_size(), len(weight)) == (120, 120, 4, 10)
    assert weight.is_floating_point()
    assert not weight.is_complex()
    assert weight.requires_grad
    assert not weight.data.requires_grad
    assert not weight.is_meta
    assert not weight.is_cuda
    assert weight.grad is None
    assert weight.stride() == dense.stride()
    assert weight.is_contiguous()
    for got in (weight.T, weight.t(), weight.mT, weight.transpose(0, 1)):
        assert torch.equal(got, dense.T)
    assert torch.equal(torch.stack(list(weight)), dense)
    assert torch.equal(weight.detach(), dense)
    assert torch.equal(weight.data + 0, dense)
    assert torch.equal(torch.as_tensor(weight.detach().numpy()), dense)
    assert np.array_equal(np.asarray(weight.data), dense.numpy())
    assert float(weight.data[0, 0]) == float(dense[0, 0])
    assert float(weight.sum().detach()) == pytest.approx(float(dense.sum()), rel=1e-5)
    assert "LazyWeight((10, 12)" in repr(weight)
    assert weight.new_zeros(3).dtype == dense.dtype
    assert torch.zeros_like(weight).shape == dense.shape
    assert torch.equal((weight == dense).all(), torch.tensor(True))
    assert torch.equal(weight != 0, dense != 0)
    assert weight in {weight: 1}


@quantized
def test_operators_equal_the_dense_tensors(bits: int | None) -> None:
    layer, model = layer_and_model(bits)
    w, dense = layer.weight, model.state_dict()["weight"]
    other = torch.randn(10, 12)
    right, left = torch.randn(12, 3), torch.randn(3, 10)
    operations: list[Callable[[Any], Tensor]] = [
        lambda t: t + other,
        lambda t: other + t,
        lambda t: 1 - t,
        lambda t: t - other,
        lambda t: t * other,
        lambda t: t / 2,
        lambda t: 2 / (t * t + 1),
        lambda t: t // 0.3,
        lambda t: t % 0.3,
        lambda t: abs(t) ** 0.5,
        lambda t: 2**t,
        lambda t: -t,
        lambda t: t @ right,
        lambda t: left @ t,
        lambda t: t @ right[:, 0],
        lambda t: left[0] @ t,
        lambda t: t > other,
        lambda t: t <= 0.1,
        lambda t: t[1:3, ::2],
        lambda t: t[:, None],
        lambda t: t[t > 0],
        lambda t: torch.cat([t, t]),
        lambda t: torch.where(other > 0, t, other),
        lambda t: torch.linalg.svdvals(t),
        lambda t: F.cosine_similarity(t, other),
        lambda t: t.flatten().sort().values,
        lambda t: t.view(-1, 4).float().sum(0),
    ]
    for number, operation in enumerate(operations):
        got, expected = operation(w), operation(dense)
        assert type(got) is Tensor
        assert torch.allclose(got.float(), expected.float(), rtol=1e-5, atol=1e-6), number


WRITES: dict[str, Callable[[nn.Linear], Any]] = {
    "item": lambda layer: layer.weight.__setitem__(0, 1.0),
    "+=": lambda layer: setattr(layer, "weight", layer.weight.__iadd__(1)),
    "*=": lambda layer: setattr(layer, "weight", layer.weight.__imul__(2)),
    "@=": lambda layer: setattr(layer, "weight", layer.weight.__imatmul__(torch.eye(12))),
    "data.copy_": lambda layer: layer.weight.data.copy_(torch.zeros(10, 12)),
    "data item": lambda layer: layer.weight.data.__setitem__(slice(None), 0),
    "data =": lambda layer: setattr(layer.weight, "data", torch.zeros(10, 12)),
    "data +=": lambda layer: setattr(layer.weight, "data", layer.weight.data.__iadd__(1)),
    "grad =": lambda layer: setattr(layer.weight, "grad", torch.zeros(10, 12)),
    "copy_": lambda layer: layer.weight.copy_(torch.zeros(10, 12)),
    "mul_": lambda layer: layer.weight.mul_(2),
    "torch.relu_": lambda layer: torch.relu_(layer.weight),
    "F.normalize out": lambda layer: F.normalize(layer.weight, out=layer.weight),
    "out=": lambda layer: torch.add(torch.ones(10, 12), 1, out=layer.weight),
    "out=()": lambda layer: torch.max(torch.ones(10, 12), 0, out=(layer.weight, torch.zeros(12))),
    "foreach": lambda layer: torch._foreach_mul_([layer.weight], 2.0),
    "foreach among others": lambda layer: torch._foreach_add_([torch.zeros(10, 12), layer.weight], 2.0),
    "clamp_": lambda layer: torch.clamp_(layer.weight, min=0),
    "normal_": lambda layer: nn.init.normal_(layer.weight),
    "zeros_": lambda layer: nn.init.zeros_(layer.weight),
    "constant_": lambda layer: nn.init.constant_(layer.weight, 1),
    "xavier_uniform_": lambda layer: nn.init.xavier_uniform_(layer.weight),
    "kaiming_normal_": lambda layer: nn.init.kaiming_normal_(layer.weight),
    "orthogonal_": lambda layer: nn.init.orthogonal_(layer.weight),
    "trunc_normal_": lambda layer: nn.init.trunc_normal_(layer.weight),
    "eye_": lambda layer: nn.init.eye_(layer.weight),
    "sparse_": lambda layer: nn.init.sparse_(layer.weight, 0.5),
    "reset_parameters": lambda layer: layer.reset_parameters(),
    "requires_grad_": lambda layer: layer.weight.requires_grad_(),
    "requires_grad =": lambda layer: setattr(layer.weight, "requires_grad", True),
    "register_hook": lambda layer: layer.weight.register_hook(print),
    "retain_grad": lambda layer: layer.weight.retain_grad(),
}


@quantized
@pytest.mark.parametrize("how", WRITES)
def test_a_write_is_refused_and_changes_nothing(how: str, bits: int | None) -> None:
    layer, model = layer_and_model(bits)
    before, standin = model.state_dict()["weight"].clone(), layer.weight
    with torch.no_grad(), pytest.raises(WeightError):
        WRITES[how](layer)
    assert layer.weight is standin
    assert torch.equal(model.state_dict()["weight"], before)


def test_every_function_of_torch_that_writes_in_place_is_known() -> None:
    """Compiled code looks a function up where the interpreter reads its name; the two must agree."""
    overridable = torch.overrides.get_testing_overrides()
    named = {func for func in overridable if names_in_place(getattr(func, "__name__", ""))}
    assert len(named) > 100
    assert named <= IN_PLACE.keys()
    assert {torch._foreach_mul_, nn.init.kaiming_normal_, F.elu_, torch.relu_, Tensor.add_} <= IN_PLACE.keys()
    assert all(names_in_place(func.__name__) for func in IN_PLACE)


@quantized
def test_what_rewrites_a_layer_is_refused_or_loud(bits: int | None) -> None:
    """Pruning, parametrizations and the like, applied to managed weights: an error, and the layer unchanged."""
    layer, model = layer_and_model(bits)
    x = torch.randn(3, 12)
    before = layer(x)
    attempts = [
        lambda: prune.l1_unstructured(layer, "weight", 0.5),
        lambda: prune.random_structured(layer, "weight", 0.5, dim=0),
        lambda: parametrizations.weight_norm(layer),
        lambda: parametrizations.orthogonal(layer),
        lambda: parametrizations.spectral_norm(layer),
        lambda: nn.utils.weight_norm(layer),
        lambda: nn.utils.spectral_norm(layer),
        lambda: layer.register_parameter("weight", nn.Parameter(torch.zeros(10, 12))),
    ]
    for number, attempt in enumerate(attempts):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the first weight_norm is deprecated
            with pytest.raises((WeightError, TypeError, ValueError, KeyError, AttributeError)):
                attempt()
        assert torch.equal(layer(x), before), number
        assert len(managed_weights(model.module)) == 1, number


@quantized
def test_a_weight_that_was_replaced_is_noticed(bits: int | None) -> None:
    for replace in (
        lambda layer: setattr(layer, "weight", nn.Parameter(torch.zeros(10, 12))),
        lambda layer: setattr(layer, "weight", torch.zeros(10, 12)),
        lambda layer: delattr(layer, "weight"),
        lambda layer: setattr(layer, "weight", layer_and_model(4)[0].weight),
    ):
        layer, model = layer_and_model(bits)
        replace(layer)
        for verb in (model.state_dict, model.merge, model.footprint, model.deactivate, model.unload):
            with pytest.raises(WeightError, match="was replaced"):
                verb()


@quantized
def test_functions_of_tensors_it_may_meet(bits: int | None) -> None:
    layer, model = layer_and_model(bits)
    w, dense, x = layer.weight, model.state_dict()["weight"], torch.randn(5, 12)
    assert torch.allclose(torch.func.vmap(lambda row: layer(row))(x), F.linear(x, dense, layer.bias), atol=1e-5)
    assert torch.allclose(torch.func.vmap(lambda row: row @ w.t())(x), x @ dense.t(), atol=1e-5)
    assert torch.equal(torch.equal(w, dense) * torch.ones(1), torch.ones(1))
    torch.testing.assert_close(w.detach(), dense)
    assert torch.allclose(torch.autograd.functional.jacobian(lambda v: w @ v, x[0]), dense, atol=1e-5)
    with pytest.raises(ValueError, match="in_dim"):  # vmap over the weight itself needs its dense form
        torch.func.vmap(lambda row: row.sum(), in_dims=0)(w)
    assert torch.func.vmap(lambda row: row.sum())(w + 0).shape == (10,)


class _Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Any) -> Tensor:
        ctx.save_for_backward(x, weight)
        return 2 * x @ weight.t()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        return 2 * g @ weight, 2 * g.t() @ x


@quantized
def test_an_autograd_function_that_takes_it_is_loud(bits: int | None) -> None:
    """A custom autograd function bypasses `__torch_function__`; the gradient must not silently vanish."""
    layer, _ = layer_and_model(bits)
    with pytest.raises(TypeError, match="save_for_backward"):
        _Double.apply(torch.randn(2, 12, requires_grad=True), layer.weight)
    _Double.apply(torch.randn(2, 12), layer.weight + 0).sum().backward()
    assert all(factor.grad is not None for factor in layer.parameters() if factor.requires_grad)


@quantized
def test_copies_keep_one_stand_in_per_store(bits: int | None) -> None:
    module = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
    module[1].weight = module[0].weight
    model = zoo.wrap(module, bits=bits, lora=2)
    for other in (copy.deepcopy(model.module), pickle.loads(pickle.dumps(model.module))):
        assert other[0].weight is other[1].weight
        assert other[0].weight is not module[0].weight
        assert other[0].weight._zoo_store is other[0].weight_store
        assert other.get_parameter("1.weight") is other[0].weight
        assert other.get_parameter("1.bias") is other[1].bias


def test_data_ptr_tells_weights_apart() -> None:
    for bits in BITS:
        model = zoo.wrap(nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)]), bits=bits, lora=2)
        first, second = (layer.weight for layer in model.module)
        assert first.data_ptr() != second.data_ptr()
        assert first.data_ptr() == first.data_ptr() == first.data.data_ptr()
