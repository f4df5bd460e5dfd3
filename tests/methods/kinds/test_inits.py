"""Initial values of A and B: PEFT's distributions, its PiSSA and OLoRA, and an unchanged base with all of them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

import zoo
from zoo.errors import AdapterError
from zoo.methods.pissa import PiSSAUpdate
from zoo.weights.update import LoRAUpdate
from zoo.weights.walk import managed_weights

from .layers import Holder, error, pair, peft_parameters, update_of

CHANGING = ["pissa", "olora"]


def with_init(init: Any, rank: int = 4, name: str = "Linear", **more: Any) -> tuple[Holder, Holder, torch.Tensor]:
    import peft

    theirs = peft.LoraConfig(
        r=rank,
        lora_alpha=6,
        target_modules=["layer"],
        init_lora_weights=init,
        fan_in_fan_out=name == "Conv1D",
        use_rslora=more.get("rslora", False),
    )
    return pair(name, theirs, zoo.LoRA(rank, 6, targets=["layer"], init=init, **more))


def step(parameters: list[torch.Tensor], lr: float) -> None:
    with torch.no_grad():
        for parameter in parameters:
            parameter -= lr * parameter.grad  # type: ignore[operator]
            parameter.grad = None


@pytest.mark.parametrize(
    ("init", "name", "more"),
    [
        ("pissa", "Linear", {}),
        ("pissa", "Conv1D", {"rslora": True}),
        ("olora", "Linear", {"rslora": True}),
        ("pissa_niter_40", "Linear", {}),
    ],
)
def test_training_equals_peft_whose_base_changes(init: str, name: str, more: dict[str, Any]) -> None:
    theirs, ours, x = with_init(init, name=name, **more)
    update, reference = update_of(ours), peft_parameters(theirs)
    A, B = reference["lora_A.weight"], reference["lora_B.weight"]
    assert isinstance(update, PiSSAUpdate)
    if "niter" in init:  # approximated with different random numbers: both take the same part of the weight
        assert (update.B0 @ update.A0).norm().item() == pytest.approx((B @ A).norm().item(), rel=0.02)
    else:
        assert error(update.B @ update.A, B @ A) < 1e-5
        assert error(update.B0 @ update.A0, B @ A) < 1e-5
    # A decomposition leaves the factors' signs (or, for equal values, a rotation) open: take PEFT's.
    with torch.no_grad():
        for parameter, value in ((update.A, A), (update.A0, A), (update.B, B), (update.B0, B)):
            parameter.copy_(value)
    target = torch.randn(2, 5, 12)
    for _ in range(5):
        found, expected = ours(x), theirs(x)
        assert error(found, expected) < 1e-5
        (found - target).square().mean().backward()
        (expected - target).square().mean().backward()
        assert error(update.A.grad, A.grad) < 1e-5
        assert error(update.B.grad, B.grad) < 1e-5
        assert update.A0.grad is None
        step([update.A, update.B], 0.05)
        step([A, B], 0.05)
    assert error(update.A, A) < 1e-5
    assert (update.A - update.A0).abs().max() > 1e-3


@pytest.mark.parametrize("init", [*CHANGING, "pissa_niter_4"])
@pytest.mark.parametrize("bits", [None, 4])
def test_it_is_an_ordinary_lora_of_twice_the_rank_on_the_base_as_it_was(init: str, bits: int | None) -> None:
    torch.manual_seed(3)
    layer = nn.Linear(20, 12)
    model = zoo.wrap(Holder(layer), bits=bits)
    x = torch.randn(7, 20)
    before, weight = model(x), layer.weight.detach().clone()
    model.add_adapter("first", zoo.LoRA(4, 6, init=init))
    assert error(model(x), before) < 1e-6
    update = update_of(model.module)
    assert {id(one) for _, one in model.trainable_parameters()} == {id(update.A), id(update.B)}
    with torch.no_grad():
        for _, parameter in model.trainable_parameters():
            parameter.add_(torch.randn_like(parameter))
    after = model(x)
    A, B = update.as_lora()
    assert (A.shape, B.shape) == ((8, 20), (12, 8))
    plain = LoRAUpdate(weight.shape, 8, update.scale)
    with torch.no_grad():
        plain.A.copy_(A)
        plain.B.copy_(B)
        assert error(nn.functional.linear(x, plain(weight), layer.bias), after) < 1e-5
    model.deactivate()
    assert torch.equal(model(x), before)
    model.activate("first")
    assert torch.equal(model(x), after)
    model.merge()
    assert error(model(x), after) < 1e-5
    model.unmerge()
    model.remove_adapter("first")
    assert torch.equal(layer.weight + 0, weight)


@pytest.mark.parametrize("init", CHANGING)
def test_where_the_rank_is_more_than_the_weights_own(init: str) -> None:
    model = zoo.wrap(nn.Linear(3, 40), lora=zoo.LoRA(8, 8, init=init))
    x = torch.randn(5, 3)
    base = nn.functional.linear(x, model.module.weight_store.base, model.module.bias)  # type: ignore[union-attr, arg-type]
    assert error(model(x), base) < 1e-6
    model(x).square().sum().backward()
    assert all(parameter.grad is not None for _, parameter in model.trainable_parameters())


def test_the_frozen_part_is_the_same_whenever_it_is_made() -> None:
    layer = nn.Linear(30, 20)
    made = []
    for seed in (1, 2):
        model = zoo.wrap(nn.Linear(30, 20))
        model.module.load_state_dict(layer.state_dict())
        state = torch.random.get_rng_state()
        model.add_adapter("a", zoo.LoRA(4, init="pissa_niter_2"), seed=seed)
        assert torch.equal(torch.random.get_rng_state(), state)
        (update,) = next(iter(managed_weights(model.module).values())).active_updates()
        made.append(update.B0 @ update.A0)  # type: ignore[operator]
    assert torch.equal(*made)


def test_gaussian_and_orthogonal_start_as_pefts() -> None:
    theirs, ours, x = with_init("gaussian", rank=64)
    update = update_of(ours)
    assert not update.B.any()
    assert update.A.std().item() == pytest.approx(1 / 64, rel=0.1)
    assert update.A.std().item() == pytest.approx(peft_parameters(theirs)["lora_A.weight"].std().item(), rel=0.15)
    theirs, ours, x = with_init("orthogonal", rank=64)
    update, reference = update_of(ours), peft_parameters(theirs)
    for mine, other in ((update.A, "lora_A.weight"), (update.B, "lora_B.weight")):
        assert mine.std().item() == pytest.approx(reference[other].std().item(), rel=0.15)
        assert mine.any()
    assert (update.B @ update.A).abs().max() < 1e-6
    assert error(ours(x), nn.functional.linear(x, ours.layer.weight._zoo_store.base, ours.layer.bias)) < 1e-6  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("init", ["gaussian", "orthogonal", "pissa", "olora"])
def test_embeddings_and_odd_weights(init: str) -> None:
    for layer, x in ((nn.Embedding(9, 6), torch.randint(9, (4,))), (nn.ConvTranspose1d(4, 6, 3), torch.randn(2, 4, 5))):
        before = layer(x)
        model = zoo.wrap(layer, lora=zoo.LoRA(4, init=init))
        assert error(model(x), before) < 1e-6
        model(x).square().sum().backward()
        assert all(math.isfinite(parameter.grad.norm()) for _, parameter in model.trainable_parameters())  # type: ignore[union-attr, arg-type]


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"init": "eva"}, "init 'eva' starts from the activations of data"),
        ({"init": "loftq"}, "init: expected one of 'default', .*, got 'loftq'"),
        ({"init": "pissa_niter_N"}, "init: expected one of"),
        ({"init": True}, "init: expected one of"),
        ({"init": "orthogonal", "rank": 3}, "init 'orthogonal' needs an even rank, got 3"),
        ({"init": "orthogonal", "rank_pattern": {"a": 5}}, "even rank, got 5"),
        ({"init": "pissa", "dora": True}, "dora=True starts from the base as it is"),
        ({"dora": 1}, "dora: expected True or False"),
        ({"bias": "some"}, "bias: expected one of 'none', 'all', 'lora_only', got 'some'"),
        ({"modules_to_save": "head"}, "modules_to_save: expected a list"),
        ({"modules_to_save": [""]}, "modules_to_save: expected a list"),
    ],
)
def test_what_cannot_be_is_named(values: dict[str, Any], match: str) -> None:
    with pytest.raises(AdapterError, match=match) as caught:
        zoo.LoRA(**values)
    assert "\n" not in str(caught.value)
