"""Modules of unknown classes: weights sliced, scaled, shared, stacked, looked up, in lists, under parametrizations.

Each runs through the same steps in full precision, 8 and 4 bit: a new adapter changes nothing; a trained one acts
like the equivalent dense weights, in outputs and in every gradient; deactivating, merging, unmerging, unloading and
removing it restore the state that they should.
"""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import zoo
from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.walk import managed_weights

from .custom_modules import (
    Arithmetic,
    Einsum,
    EmbeddingAndHead,
    Experts,
    Fork,
    Gathered,
    Keywords,
    Listed,
    Modulated,
    Normalised,
    Reused,
    Root,
    Scaled,
    Sliced,
    Stacked,
    Standardised,
    Tied,
    Transposed,
)
from .torch_modules import (
    Attention,
    Bag,
    Bilinear,
    Cells,
    LayerNorm2d,
    OldNorm,
    PackedSequences,
    Recurrent,
    geometric,
    graph,
    spectral,
)

BITS = [None, 8, 4]


class Case(NamedTuple):
    make: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Tensor, ...]]


def rows(*shape: int) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: (torch.randn(*(shape or (5, 8))),)


def index() -> tuple[Tensor]:
    return (torch.cat([torch.randint(11, (4, 6)), torch.arange(6).view(1, 6)]),)


CASES: dict[str, Case] = {
    "sliced": Case(Sliced, rows()),
    "scaled": Case(Scaled, rows()),
    "modulated": Case(Modulated, lambda: (torch.randn(3, 4, 6, 6), torch.randn(3, 5))),
    "transposed": Case(Transposed, rows()),
    "standardised": Case(lambda: Standardised(4, 6, 3, padding=1), rows(2, 4, 6, 6)),
    "einsum": Case(Einsum, rows()),
    "lists and dicts": Case(Listed, rows()),
    "tied": Case(Tied, rows()),
    "reused": Case(Reused, rows()),
    "embedding and head": Case(EmbeddingAndHead, index),
    "root parameters": Case(Root, rows(3, 6, 8)),
    "stacked": Case(Stacked, rows()),
    "normalised": Case(Normalised, rows()),
    "gathered": Case(Gathered, index),
    "experts": Case(Experts, rows()),
    "arithmetic": Case(Arithmetic, rows(8, 8)),
    "keywords": Case(Keywords, rows(8, 8)),
    "copied and written": Case(Fork, rows()),
    "layer norm 2d": Case(LayerNorm2d, rows(4, 3, 8)),
    "bilinear": Case(Bilinear, lambda: (torch.randn(6, 8), torch.randn(6, 5))),
    "bag sum": Case(lambda: Bag("sum"), index),
    "bag mean": Case(lambda: Bag("mean"), index),
    "bag max": Case(lambda: Bag("max"), index),
    "weight_norm": Case(lambda: parametrizations.weight_norm(nn.Conv1d(4, 6, 3)), rows(2, 4, 9)),
    "spectral_norm": Case(spectral, rows()),
    "orthogonal": Case(lambda: parametrizations.orthogonal(nn.Linear(8, 8)), rows()),
    "old weight_norm": Case(OldNorm, rows()),
    "LSTM": Case(lambda: Recurrent(nn.LSTM(8, 6, 2, bidirectional=True)), rows(4, 3, 8)),
    "LSTM packed": Case(PackedSequences, rows(4, 3, 8)),
    "LSTM proj": Case(lambda: Recurrent(nn.LSTM(8, 6, proj_size=4, batch_first=True)), rows(3, 4, 8)),
    "GRU": Case(lambda: Recurrent(nn.GRU(8, 6, 2)), rows(4, 3, 8)),
    "RNN": Case(lambda: Recurrent(nn.RNN(8, 6, bidirectional=True, nonlinearity="tanh")), rows(4, 3, 8)),
    "cells": Case(Cells, rows(4, 3, 8)),
    "attention": Case(Attention, lambda: (torch.randn(2, 5, 8),) * 3),
    "attention kdim": Case(
        lambda: Attention(kdim=6, vdim=7, add_bias_kv=True),
        lambda: (torch.randn(2, 5, 8), torch.randn(2, 4, 6), torch.randn(2, 4, 7)),
    ),
    "conv grouped": Case(lambda: nn.Conv2d(4, 6, 3, groups=2, dilation=2, padding=2, bias=False), rows(2, 4, 7, 7)),
    "conv depthwise": Case(lambda: nn.Conv2d(6, 6, 3, groups=6, padding="same"), rows(2, 6, 7, 7)),
    "conv circular": Case(lambda: nn.Conv1d(4, 6, 4, padding="same", padding_mode="circular"), rows(2, 4, 9)),
    "conv 3d": Case(lambda: nn.Conv3d(3, 4, (2, 3, 3), stride=(1, 2, 2)), rows(2, 3, 4, 7, 7)),
    "conv transposed": Case(
        lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, output_padding=1, dilation=2), rows(2, 4, 5, 5)
    ),
    "GAT": Case(lambda: geometric("GAT"), graph),
    "GATv2": Case(lambda: geometric("GATv2"), graph),
}


def build(name: str, bits: int | None, spread: bool = True) -> tuple[zoo.Model, nn.Module, tuple[Tensor, ...]]:
    """Return a wrapped case with an adapter on everything (`spread`: non-zero factors), a plain copy, and inputs."""
    plain, module = CASES[name].make().eval(), CASES[name].make().eval()
    module.load_state_dict(plain.state_dict())
    model = zoo.wrap(module, bits=bits, lora=zoo.LoRA(rank=2, alpha=4, targets="all"))
    if spread:
        spread_factors(model)
    return model, plain, CASES[name].inputs()


def spread_factors(model: zoo.Model) -> None:
    with torch.no_grad():
        for _, factor in model.trainable_parameters():
            factor.normal_(std=0.4)


def run(module: Any, inputs: tuple[Tensor, ...]) -> Tensor:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "LSTM with projections")
        return module(*inputs)


def error(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).detach().norm() / expected.detach().norm().clamp(min=1e-12))


def base_bits(model: zoo.Model) -> list[bytes]:
    """Return every stored byte of the base."""
    tensors = []
    for store in managed_weights(model.module).values():
        assert isinstance(store, ManagedWeight)
        tensors += [store.base] if store.base is not None else list(store.packed.tensors())
    return [tensor.detach().contiguous().view(torch.uint8).numpy().tobytes() for tensor in tensors]


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", CASES)
def test_a_fresh_adapter_changes_nothing(name: str, bits: int | None) -> None:
    model, plain, inputs = build(name, bits, spread=False)
    with torch.no_grad():  # torch itself uses other kernels for a weight that requires grad
        fresh = run(model, inputs)
    recorded = run(model, inputs)
    model.deactivate()
    with torch.no_grad():
        base = run(model, inputs)
        assert torch.equal(fresh, base)
        assert error(recorded, base) < 1e-6
        plain.load_state_dict(model.state_dict())
        assert error(run(plain, inputs), base) < 1e-6


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", CASES)
def test_a_trained_adapter_acts_like_its_dense_weights(name: str, bits: int | None) -> None:
    """Outputs and every gradient equal those of the library's own module with the dense weights."""
    model, plain, inputs = build(name, bits)
    model.deactivate()
    base = run(model, inputs)
    model.activate("default")
    inputs = tuple(x.requires_grad_() if x.is_floating_point() else x for x in inputs)
    out = run(model, inputs)
    assert error(out, base) > 1e-3, "the adapter has no effect"
    plain.load_state_dict(model.state_dict())
    expected = run(plain, inputs)
    assert error(out, expected) < 1e-5

    g = torch.randn_like(out)
    factors = dict(model.trainable_parameters())
    floating = [x for x in inputs if x.is_floating_point()]
    got = torch.autograd.grad(out, [*floating, *factors.values()], g)
    named = dict(plain.named_parameters())
    held = managed_weights(model.module)
    wanted = torch.autograd.grad(expected, [*floating, *(named[key] for key in held)], g)
    through = torch.autograd.grad(
        [store.dense() for store in held.values()], list(factors.values()), wanted[len(floating) :]
    )
    for key, mine, theirs in zip(factors, got[len(floating) :], through, strict=True):
        assert mine.abs().sum() > 0, f"{key} gets no gradient"
        assert error(mine, theirs) < 1e-4, key
    for mine, theirs in zip(got, wanted[: len(floating)], strict=False):
        assert error(mine, theirs) < 1e-5


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", CASES)
def test_merging_and_coming_back(name: str, bits: int | None) -> None:
    model, plain, inputs = build(name, bits)
    before = base_bits(model)
    adapted = run(model, inputs)
    model.deactivate()
    base = run(model, inputs)
    model.activate("default")
    for _ in range(5):
        model.merge()
        assert error(run(model, inputs), adapted) < 1e-5
        model.unmerge()
        assert torch.equal(run(model, inputs), adapted)
    model.deactivate()
    assert torch.equal(run(model, inputs), base)
    assert base_bits(model) == before

    model.activate("default")
    model.merge()
    merged = run(model, inputs)
    module = model.unload()
    assert not managed_weights(module)
    assert set(dict(module.named_parameters())) == set(dict(plain.named_parameters()))
    assert error(run(module, inputs), merged) < 1e-6  # attention takes its fast path again
    plain.load_state_dict(module.state_dict())
    assert error(run(plain, inputs), adapted) < 1e-5


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", CASES)
def test_copies_and_casts(name: str, bits: int | None) -> None:
    model, plain, inputs = build(name, bits)
    with torch.no_grad():
        before = run(model, inputs)
        copies = []
        if name not in ("weight_norm", "spectral_norm", "orthogonal"):  # torch itself refuses to pickle those
            copies.append(pickle.loads(pickle.dumps(model)))
        if name != "old weight_norm":  # torch itself cannot copy it with a graph
            copies.append(copy.deepcopy(model))
        other, _, _ = build(name, bits)
        other.module.load_state_dict(model.module.state_dict())
        copies.append(other)
        for one in copies:
            assert torch.equal(run(one, inputs), before)
            spread_factors(one)
            assert error(run(one, inputs), before) > 1e-3
        assert torch.equal(run(model, inputs), before)
        plain.load_state_dict(model.state_dict())
        model.module.double()
        cast = tuple(x.double() if x.is_floating_point() else x for x in inputs)
        assert error(run(model, cast), run(plain.double(), cast)) < 1e-6


@pytest.mark.parametrize("name", CASES)
def test_removing_the_last_adapter_restores_the_parameters_themselves(name: str) -> None:
    module = CASES[name].make().eval()
    before = dict(module.named_parameters(remove_duplicate=False))
    inputs = CASES[name].inputs()
    base = run(module, inputs)
    model = zoo.wrap(module, lora=zoo.LoRA(rank=2, targets="all"))
    spread_factors(model)
    run(model, inputs)
    model.remove_adapter("default")
    after = dict(module.named_parameters(remove_duplicate=False))
    assert list(after) == list(before)
    assert all(after[key] is before[key] and after[key].requires_grad for key in before)
    assert torch.equal(run(module, inputs), base)


@pytest.mark.parametrize("bits", BITS)
def test_a_tied_weight_is_one_store(bits: int | None) -> None:
    for name in ("tied", "embedding and head", "reused"):
        model, _, _ = build(name, bits)
        assert len(managed_weights(model.module)) == 1
        assert len(dict(model.trainable_parameters())) == 2
        assert len(list(model.weights())) == len(dict(CASES[name].make().named_parameters()))
