"""torch.compile, torch.export and torch.func over managed weights."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, jvp, vjp, vmap

import zoo
from zoo.errors import WeightError
from zoo.weights.walk import managed_weights

BITS = [None, 8, 4]
quantized = pytest.mark.parametrize("bits", BITS)


class Net(nn.Module):
    """A convolution, a transposed one, attention over positions, a raw parameter, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, groups=1)
        self.up = nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.queries = nn.Parameter(torch.randn(4, 8))
        self.proj = nn.Parameter(torch.randn(8, 8) / 3)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.up(torch.tanh(self.conv(x)))).flatten(-2).mT  # (n, positions, 8)
        attention = torch.einsum("npc,qc->nqp", y, self.queries).softmax(-1)
        return self.head(torch.tanh(attention @ y) @ self.proj)


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(13, 16, padding_idx=0)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 13, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, index: Tensor) -> Tensor:
        return self.head(self.norm(self.embed(index)).tanh())


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "net": (Net, lambda: torch.randn(2, 3, 4, 4)),
    "words": (Words, lambda: torch.randint(13, (2, 6))),
}


def managed(name: str, bits: int | None, dropout: float = 0.0) -> tuple[zoo.Model, nn.Module, Tensor]:
    plain = CASES[name][0]().eval()
    model = zoo.wrap(copy.deepcopy(plain), bits=bits, lora=zoo.LoRA(rank=2, alpha=4, targets="all", dropout=dropout))
    with torch.no_grad():
        for _, factor in model.trainable_parameters():
            factor.normal_(std=0.3)
    plain.load_state_dict(model.state_dict())
    return model, plain, CASES[name][1]()


def error(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).detach().norm() / expected.detach().norm().clamp(min=1e-12))


def gradients(call: Callable[[Tensor], Tensor], model: zoo.Model, x: Tensor, g: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(call(x), [factor for _, factor in model.trainable_parameters()], g))


@pytest.fixture(autouse=True)
def fresh_dynamo() -> None:
    torch.compiler.reset()


# Inductor's C++ compiler takes 17 s for its one case where nothing is cached yet.
@pytest.mark.turns(3)
@pytest.mark.parametrize(
    ("backend", "name", "bits"),
    [
        *(
            pytest.param("aot_eager", name, bits, marks=[] if bits == 4 else [pytest.mark.slow])
            for name in CASES
            for bits in BITS
        ),
        pytest.param("inductor", "words", 4, marks=pytest.mark.slow),
    ],
)
def test_compiled_whole(name: str, bits: int | None, backend: str) -> None:
    model, _, x = managed(name, bits)
    expected = model.module(x)
    g = torch.randn_like(expected)
    wanted = gradients(model.module, model, x, g)
    compiled = torch.compile(model.module, fullgraph=True, backend=backend)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # inductor's own
        assert error(compiled(x), expected) < 1e-5
        got = gradients(compiled, model, x, g)
        with torch.no_grad():
            assert error(compiled(x), expected) < 1e-5
    assert all(error(mine, theirs) < 1e-4 for mine, theirs in zip(got, wanted, strict=True))
    with torch.no_grad():  # compiled code follows a training step, and deactivating the adapter
        for _, factor in model.trainable_parameters():
            factor.mul_(2)
        assert error(compiled(x), model.module(x)) < 1e-5
        model.deactivate()
        assert error(compiled(x), model.module(x)) < 1e-5
        assert error(compiled(x), expected) > 1e-3


@pytest.mark.parametrize("bits", [4])  # compiling takes long
def test_compiled_with_autocast_and_merged(bits: int | None) -> None:
    model, _, x = managed("net", bits)
    compiled = torch.compile(model.module, fullgraph=True, backend="aot_eager")
    expected = model.module(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert error(compiled(x).float(), expected) < 0.05
    model.merge()
    assert error(compiled(x), expected) < 1e-5
    model.unmerge()
    assert error(compiled(x), expected) < 1e-5


COMPILED_WRITES: dict[str, Callable[[nn.Linear], object]] = {
    "relu_": lambda layer: torch.relu_(layer.weight),
    "clamp_": lambda layer: torch.clamp_(layer.weight, min=0),
    "elu_": lambda layer: nn.functional.elu_(layer.weight),
    "normal_": lambda layer: nn.init.normal_(layer.weight),
    "foreach": lambda layer: torch._foreach_mul_([layer.weight], 2.0),
    "method": lambda layer: layer.weight.mul_(2),
    "out=": lambda layer: torch.add(torch.ones(6, 5), 1, out=layer.weight),
}


@pytest.mark.parametrize("how", COMPILED_WRITES)
def test_a_compiled_write_is_refused_and_changes_nothing(how: str) -> None:
    layer = nn.Linear(5, 6)
    model = zoo.wrap(layer, lora=zoo.LoRA(rank=2, targets="all"))
    before = model.state_dict()["weight"].clone()

    def write(x: Tensor) -> Tensor:
        COMPILED_WRITES[how](layer)
        return layer(x)

    with torch.no_grad(), pytest.raises(WeightError, match="cannot be written in place"):
        torch.compile(write, backend="aot_eager")(torch.randn(3, 5))
    assert torch.equal(model.state_dict()["weight"], before)


@quantized
@pytest.mark.parametrize("name", CASES)
def test_export(name: str, bits: int | None) -> None:
    model, _, x = managed(name, bits)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(model.module, (x,))
    expected = model.module(x)
    assert error(program.module()(x), expected) < 1e-5
    other = CASES[name][1]()
    assert error(program.module()(other), model.module(other)) < 1e-5


@quantized
@pytest.mark.parametrize("name", CASES)
def test_functional_call(name: str, bits: int | None) -> None:
    """Other factors for one call, also differentiated; the module's own do not change."""
    model, _, x = managed(name, bits)
    before, own = model.module(x), [id(factor) for _, factor in model.trainable_parameters()]
    others = {key: torch.randn_like(factor) * 0.3 for key, factor in model.trainable_parameters()}
    got = functional_call(model.module, others, (x,))
    assert torch.equal(model.module(x), before)
    assert [id(factor) for _, factor in model.trainable_parameters()] == own
    grads = grad(lambda factors: functional_call(model.module, factors, (x,)).square().sum())(others)
    with torch.no_grad():
        for key, factor in model.trainable_parameters():
            factor.copy_(others[key])
    assert error(model.module(x), got) < 1e-6
    model.module(x).square().sum().backward()
    for key, factor in model.trainable_parameters():
        assert error(grads[key], factor.grad) < 1e-5, key


@quantized
def test_transforms_over_inputs(bits: int | None) -> None:
    model, plain, _ = managed("net", bits)
    module = model.module
    x, v = torch.randn(3, 3, 4, 4), torch.randn(3, 3, 4, 4)
    batched = vmap(lambda one: module(one[None])[0], randomness="error")(x)
    assert error(batched, plain(x)) < 1e-5

    def first(net: nn.Module) -> Callable[[Tensor], Tensor]:
        return lambda one: net(one[None])[0, 0]

    assert error(jacrev(first(module))(x[0]), jacrev(first(plain))(x[0])) < 1e-5
    scalar = grad(lambda one: first(module)(one).square().sum())
    assert error(scalar(x[0]), grad(lambda one: first(plain)(one).square().sum())(x[0])) < 1e-5
    assert error(vmap(scalar)(x), torch.stack([scalar(one) for one in x])) < 1e-5
    for got, expected in zip(jvp(module, (x,), (v,)), jvp(plain, (x,), (v,)), strict=True):
        assert error(got, expected) < 1e-5
    out, pull = vjp(module, x)
    g = torch.randn_like(out)
    assert error(pull(g)[0], vjp(plain, x)[1](g)[0]) < 1e-5
    hessian = torch.func.hessian(lambda one: first(module)(one).square().sum())(x[0, :, :2, :2])
    expected = torch.func.hessian(lambda one: first(plain)(one).square().sum())(x[0, :, :2, :2])
    assert error(hessian, expected) < 1e-4


@quantized
@pytest.mark.parametrize("name", CASES)
def test_gradients_per_sample(name: str, bits: int | None) -> None:
    model, _, _ = managed(name, bits)
    x = torch.cat([CASES[name][1]() for _ in range(2)])
    factors = {key: factor.detach() for key, factor in model.trainable_parameters()}

    def loss(factors: dict[str, Tensor], one: Tensor) -> Tensor:
        return functional_call(model.module, factors, (one[None],)).square().sum()

    each = vmap(grad(loss), in_dims=(None, 0))(factors, x)
    for number, one in enumerate(x):
        model.module.zero_grad()
        model.module(one[None]).square().sum().backward()
        for key, factor in model.trainable_parameters():
            assert error(each[key][number], factor.grad) < 1e-4, key


@quantized
def test_double_backward(bits: int | None) -> None:
    """A gradient penalty as in R1, differentiated; forward-mode AD is refused, not silently dropped."""
    model, plain, x = managed("net", bits)
    with torch.autograd.forward_ad.dual_level():  # torch.func.jvp works; the older interface gives torch's own error
        dual = torch.autograd.forward_ad.make_dual(x, torch.randn_like(x))
        with pytest.raises(NotImplementedError, match="jvp"):
            model.module(dual)

    def penalty(net: nn.Module) -> Tensor:
        y = x.clone().requires_grad_()
        return torch.autograd.grad(net(y).square().sum(), y, create_graph=True)[0].square().sum()

    mine, theirs = penalty(model.module), penalty(plain)
    assert error(mine, theirs) < 1e-4
    mine.backward()
    theirs.backward()
    named = dict(plain.named_parameters())
    held = managed_weights(model.module)
    factors = dict(model.trainable_parameters())
    wanted = torch.autograd.grad(
        [store.dense() for store in held.values()], list(factors.values()), [named[key].grad for key in held]
    )
    for (key, factor), expected in zip(factors.items(), wanted, strict=True):
        assert error(factor.grad, expected) < 1e-4, key


def test_compile_of_a_library_model() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    plain = GPT2LMHeadModel(GPT2Config(vocab_size=61, n_positions=16, n_embd=32, n_layer=1, n_head=2)).eval()
    model = zoo.wrap(plain, bits=4, lora=zoo.LoRA(rank=2, targets="all"))
    with torch.no_grad():
        for _, factor in model.trainable_parameters():
            factor.normal_(std=0.3)
    index = torch.randint(61, (2, 8))
    expected = model.module(index, use_cache=False).logits
    compiled = torch.compile(model.module, fullgraph=True, backend="aot_eager")
    got = compiled(index, use_cache=False).logits
    assert error(got, expected) < 1e-5
    got.square().sum().backward()
    assert all(factor.grad.abs().sum() > 0 for _, factor in model.trainable_parameters())
