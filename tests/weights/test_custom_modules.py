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
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import zoo
from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.walk import managed_weights

BITS = [None, 8, 4]


def small(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) / shape[-1] ** 0.5)


class Sliced(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = small(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        first, rest = w[0], w[1:, ::2]
        return (
            x[:, ::2] @ rest.t() + (x @ first)[:, None] + (x @ w[..., [1, 2]].repeat(2, 2).narrow(0, 0, 8)).sum(1, True)
        )


class Scaled(nn.Module):
    """Equalized learning rate, as in StyleGAN: the gain is applied at every use."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = small(6, 8)
        self.bias = nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias[None], x, (self.weight * 0.3).t()) + F.linear(x, 2 * self.weight / 3 - 0.1)


class Modulated(nn.Module):
    """A convolution whose weight is modulated and demodulated for every sample."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, 6, 4, 3, 3))
        self.affine = nn.Linear(5, 4)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        n, c, h, w = x.shape
        weight = self.weight * self.affine(style)[:, None, :, None, None]
        weight = weight * (weight.square().sum([2, 3, 4], keepdim=True) + 1e-8).rsqrt()
        y = F.conv2d(x.reshape(1, n * c, h, w), weight.flatten(0, 1), padding=1, groups=n)
        return y.view(n, 6, h, w)


class Transposed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = small(8, 6)
        self.back = small(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight.t()) + x @ self.weight
        return F.linear(y, self.back) + y @ self.back.T + torch.mm(y, self.back.mT) + self.back.matmul(y.t()).t()


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        deviation, mean = torch.std_mean(self.weight, dim=[1, 2, 3], keepdim=True)
        return self._conv_forward(x, (self.weight - mean) / (deviation + 1e-5), self.bias)


class Einsum(nn.Module):
    """Grouped projections by einsum over a three-dimensional weight, and one over two weights at once."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.Parameter(torch.randn(2, 8, 4) / 3)
        self.out = nn.Parameter(torch.randn(2, 4, 6) / 2)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.einsum("bi,hid->bhd", x, self.heads)
        return torch.einsum("bhd,hdo->bo", y, self.out) + torch.einsum("bi,hid,hdo->bo", x, self.heads, self.out)


class Listed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ParameterList([small(8, 8), small(8, 8)])
        self.named = nn.ParameterDict({"down": small(4, 8), "up": small(6, 4)})

    def forward(self, x: Tensor) -> Tensor:
        for weight in self.layers:
            x = torch.tanh(F.linear(x, weight))
        x = F.linear(x, self.layers[0])
        for weight in self.named.values():
            x = x @ weight.t()
        return x + F.linear(x @ self.named["up"], self.named["up"])


class Tied(nn.Module):
    """Two layers that share one parameter, and a third that uses it transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.back = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.back.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.second(torch.tanh(self.first(x))))
        return y @ self.back.weight + self.back.bias


class Reused(nn.Module):
    """One layer called twice, and registered under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
        self.same = self.layer

    def forward(self, x: Tensor) -> Tensor:
        return self.same(torch.tanh(self.layer(torch.tanh(self.layer(x)))))


class EmbeddingAndHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8, padding_idx=0)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, index: Tensor) -> Tensor:
        return self.head(torch.tanh(self.embed(index)))


class Root(nn.Module):
    """Parameters of the root module itself, of three dimensions, broadcast over the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(1, 5, 8))
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.scales = nn.Parameter(torch.randn(2, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1)[:, :5] + self.positions
        y += self.positions
        return torch.sin(y) * self.scales.flatten().sum() + self.token.squeeze() * self.scales[0, 1]


class Stacked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = small(4, 8), small(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([self.a, self.b])
        pair = torch.stack((self.a, self.b))
        return (
            F.linear(x, both) + F.linear(x, pair.mean(0)).repeat(1, 2) + x @ torch.block_diag(self.a, self.b)[:, :8].t()
        )


class Normalised(nn.Module):
    """Cosine similarity to prototypes, and a norm of the weight as a penalty."""

    def __init__(self) -> None:
        super().__init__()
        self.prototypes = small(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        cosine = F.linear(F.normalize(x), F.normalize(self.prototypes))
        return cosine + torch.cdist(x, self.prototypes) + self.prototypes.norm() + (self.prototypes**2).sum()


class Gathered(nn.Module):
    """Rows chosen by index in several ways."""

    def __init__(self) -> None:
        super().__init__()
        self.table = small(11, 8)
        self.register_buffer("order", torch.randperm(11))

    def forward(self, index: Tensor) -> Tensor:
        table = self.table
        picked = table[index] + table.index_select(0, index.flatten()).view(*index.shape, 8)
        picked = picked + torch.gather(table, 0, index.reshape(-1, 1).expand(-1, 8)).view_as(picked)
        return (
            picked + table[self.order].sum(0) + torch.take(table, index)[..., None] + F.embedding(index, weight=table)
        )


class Experts(nn.Module):
    """A mixture whose experts are stacked in one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(3, 8, 5) / 3)
        self.down = nn.Parameter(torch.randn(3, 5, 6) / 2)
        self.bias = nn.Parameter(torch.randn(3, 1, 6))

    def forward(self, x: Tensor) -> Tensor:
        batch = x.expand(3, *x.shape)
        y = torch.baddbmm(self.bias, torch.relu(torch.bmm(batch, self.up)) + 0.1 * torch.bmm(batch, self.up), self.down)
        return y.sum(0) + sum(x @ up @ down for up, down in zip(self.up, self.down, strict=True))


class Arithmetic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(8, 8) / 3)
        self.v = nn.Parameter(torch.randn(8, 8) / 3)

    def forward(self, x: Tensor) -> Tensor:
        w, v = self.w, self.v
        mixed = -w + v - 0.5 * w * v / (1 + abs(w)) + 1 / (2 + v**2) + 2**w - (+v) % 1.5 + (w > v) * w
        return x @ mixed + w @ x.t() @ x + (v @ w.mT) @ x.t() @ x + x @ (w @ v) + torch.where(w < 0, v, w).sum()


class Keywords(nn.Module):
    """The operations called by keyword, and with the weight in unusual argument positions."""

    def __init__(self) -> None:
        super().__init__()
        self.w = small(8, 8)
        self.k = nn.Parameter(torch.randn(4, 4, 3))

    def forward(self, x: Tensor) -> Tensor:
        y = (
            F.linear(input=x, weight=self.w, bias=self.w[0])
            + F.linear(self.w, x[:1]).t()
            + torch.addmm(input=self.w[0], mat1=x, mat2=self.w)
        )
        y = (
            y
            + torch.addmm(x @ x.t() @ x, x, self.w, beta=0.5, alpha=2)
            + torch.matmul(input=x, other=self.w)
            + F.linear(self.w, self.w).sum(0)
        )
        z = F.conv1d(input=y.view(-1, 4, 2), weight=self.k, padding=1) + torch.conv1d(
            y.view(-1, 4, 2), self.k, None, 1, "same"
        )
        return z + torch.conv_transpose1d(z, self.k, padding=1) + F.conv1d(self.k, self.k[:, :, :1]).mean()


class Fork(nn.Module):
    """A weight that is copied, changed and used: the copy is a plain tensor, and may be written to."""

    def __init__(self) -> None:
        super().__init__()
        self.w = small(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        changed = self.w.clone().mul_(2)
        changed[0] = changed[0] * 3
        left, right = self.w.chunk(2, dim=1)
        upper, lower = self.w.split([3, 5])
        return (
            x @ changed
            + torch.tril(self.w).sum() * x
            + torch.cat([x @ left, x @ right], 1)
            + F.pad(x @ upper.t(), (0, 5))
            + (x @ lower.t()).sum()
        )


class LayerNorm2d(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm((3, 8))
        self.conv = nn.Conv1d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.norm(x))


class Bilinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pair = nn.Bilinear(8, 5, 4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.pair(x, y)


class Bag(nn.Module):
    def __init__(self, mode: str) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(11, 8, mode=mode)

    def forward(self, index: Tensor) -> Tensor:
        return self.bag(index)


class Recurrent(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


class PackedSequences(nn.Module):
    """Sequences of several lengths in one batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(8, 6, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([4, 3, 1]))
        return nn.utils.rnn.pad_packed_sequence(self.layer(packed)[0])[0]


class Cells(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru, self.rnn = nn.LSTMCell(8, 5), nn.GRUCell(5, 5), nn.RNNCell(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = c = g = r = x.new_zeros(x.shape[1], 5)
        for step in x:
            h, c = self.lstm(step, (h, c))
            g = self.gru(h, g)
            r = self.rnn(g, r)
        return h + g + r


class Attention(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, **options)

    def forward(self, x: Tensor, key: Tensor, value: Tensor) -> Tensor:
        y, weights = self.attention(x, key, value)
        return torch.cat([y, weights], dim=-1)


class OldNorm(nn.Module):
    """torch's first weight_norm, which recomputes `weight` in a hook before every forward pass."""

    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.layer = nn.utils.weight_norm(nn.Linear(8, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def graph() -> tuple[Tensor, Tensor]:
    return torch.randn(7, 8), torch.randint(7, (2, 20))


def geometric(version: str) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its import runs torch.jit.script
        from torch_geometric.nn import GATConv, GATv2Conv

    layer = GATConv if version == "GAT" else GATv2Conv
    return layer(8, 4, heads=2, edge_dim=None)


class Case(NamedTuple):
    make: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Tensor, ...]]


def rows(*shape: int) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: (torch.randn(*(shape or (5, 8))),)


def index() -> tuple[Tensor]:
    return (torch.cat([torch.randint(11, (4, 6)), torch.arange(6).view(1, 6)]),)


def spectral() -> nn.Module:
    return nn.Sequential(parametrizations.spectral_norm(nn.Linear(8, 6)), nn.Tanh(), nn.Linear(6, 4))


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
