"""DoRA: PEFT's outputs and gradients, any weight, and initial values that change nothing."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import zoo
from zoo.methods.dora import DoRAUpdate
from zoo.weights.walk import managed_weights

from .layers import LAYERS, Holder, error, pair, peft_parameters, update_of

LIKE_PEFT = ["Linear", "Conv1D", "Conv1d", "Conv2d", "Conv2d 1×1", "Conv3d", "Embedding"]


def make(name: str, dropout: float = 0.0) -> tuple[Holder, Holder, Any]:
    import peft

    theirs = peft.LoraConfig(
        r=4,
        lora_alpha=6,
        use_dora=True,
        target_modules=["layer"],
        fan_in_fan_out=name == "Conv1D",
        lora_dropout=dropout,
    )
    return pair(name, theirs, zoo.LoRA(4, 6, targets=["layer"], dora=True, dropout=dropout))


@pytest.mark.parametrize("name", LIKE_PEFT)
def test_outputs_and_gradients_equal_peft(name: str) -> None:
    theirs, ours, x = make(name)
    update = update_of(ours)
    names = {"A": "lora_A.weight", "B": "lora_B.weight", "magnitude": "lora_magnitude_vector.weight"}
    if name == "Embedding":
        names |= {"A": "lora_embedding_A", "B": "lora_embedding_B"}
    reference = peft_parameters(theirs)
    with torch.no_grad():
        for mine, other in names.items():
            value = reference[other]
            value.copy_(torch.randn_like(value) if mine != "magnitude" else value * (1 + 0.3 * torch.rand_like(value)))
            getattr(update, mine).copy_(value.reshape(getattr(update, mine).shape))
    inputs = [x.clone().requires_grad_(x.is_floating_point()) for _ in range(2)]
    y, expected = ours(inputs[0]), theirs(inputs[1])
    assert error(y, expected) < 1e-5
    with torch.no_grad():
        assert error(ours(x), expected) < 1e-5
    g = torch.randn_like(y)
    y.backward(g)
    expected.backward(g)
    for mine, other in names.items():
        found = getattr(update, mine).grad
        assert error(found, reference[other].grad.reshape(found.shape)) < 1e-5, mine
    if x.is_floating_point():
        assert error(inputs[0].grad, inputs[1].grad) < 1e-5


@pytest.mark.parametrize("name", LIKE_PEFT)
def test_magnitudes_start_as_pefts(name: str) -> None:
    theirs, ours, _ = make(name)
    expected = peft_parameters(theirs)["lora_magnitude_vector.weight"]
    assert error(update_of(ours).magnitude, expected.reshape(-1)) < 1e-6


class Raw(nn.Module):
    """Weights of layers that PEFT has no DoRA for."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(6, 5, 3)
        self.raw = nn.Parameter(torch.randn(1, 3, 5, 4))
        self.att = nn.MultiheadAttention(8, 2)
        self.depth = nn.Conv2d(5, 5, 3, groups=5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.depth(self.up(x)).flatten(2).mean(2)  # (n, 5)
        y = torch.einsum("nb,gabc->nac", y, self.raw).flatten(1)[:, :8]
        return self.att(y, y, y)[0]


@pytest.mark.parametrize("bits", [None, 4])
def test_any_weight_one_magnitude_per_output_against_the_papers_formula(bits: int | None) -> None:
    model = zoo.wrap(Raw(), bits=bits, lora=zoo.LoRA(3, 5, dora=True))
    model.eval()
    shapes = {"up.weight": (5,), "raw": (3,), "att.in_proj_weight": (24,), "att.out_proj.weight": (8,)}
    shapes["depth.weight"] = (5,)
    dims = {"up.weight": (0, 2, 3), "raw": (2, 3), "att.in_proj_weight": 1, "att.out_proj.weight": 1}
    dims["depth.weight"] = (1, 2, 3)
    found = managed_weights(model.module)
    assert found.keys() == shapes.keys()
    for name, store in found.items():
        (update,) = store.active_updates()
        assert isinstance(update, DoRAUpdate)
        assert tuple(update.magnitude.shape) == shapes[name]
        assert torch.equal(store.dense(), store.base_tensor())  # a new one changes nothing, exactly
        with torch.no_grad():
            for parameter in update.parameters():
                parameter.add_(torch.randn_like(parameter))
        base = store.base_tensor().double()
        product = update.scale * update.B.double() @ update.A.double()
        moved = base + (product.t() if store.layout.transposed else product).reshape(base.shape)
        norms = moved.square().sum(dims[name], keepdim=True).sqrt()
        expected = update.magnitude.double().view(norms.shape) * moved / norms
        assert error(store.dense(), expected) < 1e-5
    x = torch.randn(4, 6, 3, 3)
    y = model(x)
    model.merge()
    assert error(model(x), y) < 1e-5


@pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute")
def test_two_adapters_on_a_weight_apply_as_in_peft() -> None:
    import peft

    layer = nn.Linear(20, 12)
    theirs = peft.inject_adapter_in_model(
        peft.LoraConfig(r=4, lora_alpha=4, use_dora=True, target_modules=["layer"], init_lora_weights=False),
        Holder(copy.deepcopy(layer)),
        adapter_name="one",
    )
    theirs = peft.inject_adapter_in_model(
        peft.LoraConfig(r=2, lora_alpha=4, use_dora=True, target_modules=["layer"], init_lora_weights=False),
        theirs,
        adapter_name="two",
    )
    theirs.layer.set_adapter(["one", "two"])
    lora = {name: zoo.LoRA(rank, 4, targets=["layer"], dora=True) for name, rank in (("one", 4), ("two", 2))}
    ours = Holder(copy.deepcopy(layer))
    zoo.wrap(ours, lora=lora)
    with torch.no_grad():
        for name, update in ours.layer.weight._zoo_store.updates.items():
            update.A.copy_(theirs.layer.lora_A[name].weight.normal_())
            update.B.copy_(theirs.layer.lora_B[name].weight.normal_())
            update.magnitude.copy_(theirs.layer.lora_magnitude_vector[name].weight)
    x = torch.randn(7, 20)
    assert error(ours(x), theirs(x)) < 1e-5


def test_dropout_drops_inputs_of_what_the_adapter_adds() -> None:
    _, ours, _ = make("Linear", dropout=0.5)
    update = update_of(ours)
    with torch.no_grad():
        update.B.normal_()
        ours.train()
        base = ours.layer.weight._zoo_store.base_tensor()
        mask = (ours.layer.weight.dense() - base).abs().sum(0) == 0
        assert 0 < mask.sum() < 20
        ours.eval()
        assert not torch.equal(ours.layer.weight.dense(), base)


def test_the_dense_weight_is_made_again_in_backward() -> None:
    _, ours, x = make("Conv2d")
    store = ours.layer.weight._zoo_store
    kept: list[torch.Tensor] = []

    def keep(one: torch.Tensor) -> torch.Tensor:
        kept.append(one)
        return one

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda one: one):
        ours(x)
    assert not any(one.shape == store.shape and one is not store.base for one in kept)


def test_layers_are_named() -> None:
    assert set(LIKE_PEFT) < set(LAYERS)
