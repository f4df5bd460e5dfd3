"""Random numbers from a block's own generators: the same as from the global ones, which stay as they are."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.torch_state import own_random
from zoo.torch_state.modes import seeded

ONES = torch.ones(9)
DRAWS: dict[str, Callable[[], Tensor]] = {
    "rand": lambda: torch.rand(3),
    "randn_like": lambda: torch.randn_like(ONES) + torch.rand_like(ONES),
    "randint": lambda: torch.randint(9, (5,)) + torch.randint(3, 9, (5,)) + torch.randint_like(torch.ones(5), 2, 9),
    "randperm": lambda: torch.randperm(9),
    "multinomial": lambda: torch.multinomial(ONES, 3),
    "normal": lambda: torch.normal(ONES, 1.0) + torch.normal(0.0, ONES) + torch.normal(0.0, 1.0, (9,)),
    "bernoulli": lambda: torch.bernoulli(ONES / 2) + torch.bernoulli(ONES, p=0.5) + torch.poisson(ONES),
    "in place": lambda: sum(
        getattr(torch.zeros(3), f"{name}_")(*args)
        for name, args in {"normal": (), "uniform": (), "exponential": (), "cauchy": (), "geometric": (0.5,)}.items()
    ),  # type: ignore[return-value]
    "random_": lambda: torch.zeros(3).random_() + torch.zeros(3).random_(2, 9) + torch.zeros(3).bernoulli_(0.5),
    "dropout": lambda: F.dropout(ONES, 0.5) + F.alpha_dropout(ONES, 0.5, True) + torch.dropout(ONES, 0.5, True),
    "dropout2d": lambda: F.dropout2d(torch.ones(2, 9, 2, 2), 0.5),
    "dropout of a graph": lambda: F.dropout(ONES.clone().requires_grad_(), 0.5),
    "gumbel": lambda: F.gumbel_softmax(ONES) + F.rrelu(-ONES, training=True),
    "attention": lambda: F.scaled_dot_product_attention(*[torch.ones(1, 2, 3, 4)] * 3, dropout_p=0.5),
    "multi-head": lambda: nn.MultiheadAttention(8, 2, dropout=0.5)(*[torch.randn(3, 1, 8)] * 3)[0],
    "lstm": lambda: nn.LSTM(4, 4, 2, dropout=0.5)(torch.randn(3, 1, 4))[0],
    "lowrank": lambda: torch.svd_lowrank(torch.randn(9, 9), 3)[1],
    "pool": lambda: F.fractional_max_pool2d(torch.randn(1, 1, 9, 9), 2, output_size=4),
    "distributions": lambda: torch.distributions.Gamma(ONES, 1.0).sample() + torch.distributions.Beta(1, ONES).sample(),
    "init": lambda: sum(
        init(torch.zeros(4, 4))
        for init in (nn.init.normal_, nn.init.xavier_uniform_, nn.init.kaiming_normal_, nn.init.trunc_normal_)
    ),  # type: ignore[return-value]
    "layers": lambda: nn.Sequential(nn.Linear(4, 4), nn.Conv2d(1, 2, 3), nn.Embedding(3, 4))[2].weight,
}


@pytest.mark.parametrize("name", DRAWS)
def test_the_numbers_are_those_of_the_seed(name: str) -> None:
    draw = DRAWS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        expected = draw()
        torch.manual_seed(1)
        before = torch.get_rng_state()
        with seeded(7):
            found = draw()
        with torch.no_grad(), seeded(7):
            without_graph = draw()
        for one in (found, without_graph):  # which kernel computes an LSTM depends on the graph
            torch.testing.assert_close(one, expected, rtol=1e-5, atol=1e-6, check_stride=False)
        assert torch.equal(torch.get_rng_state(), before)


def test_every_function_of_torch_that_draws_is_known() -> None:
    drawing = set()
    for name in dir(torch.ops.aten) + [one.partition(".")[0] for one in _operations()]:
        packet = getattr(torch.ops.aten, name, None)
        if isinstance(packet, torch._ops.OpOverloadPacket) and any(
            torch.Tag.nondeterministic_seeded in getattr(packet, one).tags for one in packet.overloads()
        ):
            drawing.add(name)
    public = {name for name in drawing if any(callable(getattr(space, name, None)) for space in (torch, Tensor, F))}
    inner = {name for name in public if name.startswith("_")} - {"_sample_dirichlet", "_standard_gamma"}
    inner |= {"miopen_rnn"}  # what nn.LSTM calls on a device
    assert public - inner <= set(own_random.DRAWING)
    composed = {
        function
        for function in vars(F).values()
        if inspect.isfunction(function) and set(own_random.DRAWING) & {*function.__code__.co_names}
    }
    aliases = {F.boolean_dispatch, F.fractional_max_pool2d, F.fractional_max_pool3d}
    assert composed - aliases <= {*own_random._COMPOSED}


def _operations() -> list[str]:
    return [name.removeprefix("aten::") for name in torch._C._dispatch_get_all_op_names() if name.startswith("aten::")]


def test_a_generator_that_a_call_names_and_a_seed_inside_are_respected() -> None:
    def seeds_itself() -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            return torch.rand(2)

    own = torch.Generator().manual_seed(5)
    with seeded(0):
        assert torch.equal(torch.rand(2, generator=own), torch.rand(2, generator=torch.Generator().manual_seed(5)))
        inside = seeds_itself()
    assert torch.equal(inside, seeds_itself())


def test_blocks_within_blocks() -> None:
    with seeded(1):
        first = torch.rand(2)
        with seeded(2):
            inner = torch.rand(2)
        second = torch.rand(2)
    one, two = torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)
    for found, generator in ((first, one), (inner, two), (second, one)):
        assert torch.equal(found, torch.rand(2, generator=generator))


def test_another_thread_draws_as_ever() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        expected, found = torch.rand(3), []
        torch.manual_seed(4)
        with seeded(0):
            torch.rand(1)
            thread = threading.Thread(target=lambda: found.append(torch.rand(3)))
            thread.start()
            thread.join()
        assert torch.equal(found[0], expected)
