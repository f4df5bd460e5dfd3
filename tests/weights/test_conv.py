"""Convolutions, plain and transposed, with a managed weight: every option of every dimension, against float64."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.weights.layout import Layout
from zoo.weights.ops import conv
from zoo.weights.ops.conv_choice import Plan, Way
from zoo.weights.ops.shifts import taps_of

from .helpers import QUANTIZED, SCHEMES, compare, dense_kept, error, managed, reference, saved_by, trained

# Every way that sizes choose among must be right for any sizes.
WAYS: tuple[dict[str, Any], ...] = (
    {"way": Way.SHIFTS, "folded": True, "keeps": False},
    {"way": Way.SHIFTS, "folded": False, "keeps": True},
    {"way": Way.KERNELS, "folded": False, "keeps": False},
    {"way": Way.DENSE, "folded": True, "keeps": False},
    {"way": Way.DENSE, "folded": False, "keeps": False},
    {"way": Way.KERNELS, "folded": True, "keeps": False},
    {"way": Way.SHIFTS, "folded": False, "keeps": False},
)

PLAIN = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}

# dimensions, kernel, options; 6 channels in and 9 out, or by groups
CASES: list[tuple[int, tuple[int, ...], dict[str, Any]]] = [
    (1, (3,), {}),
    (1, (1,), {}),
    (1, (5,), {"stride": 2, "padding": 3, "dilation": 2}),
    (1, (4,), {"padding": "same"}),
    (1, (3,), {"padding": "valid", "dilation": (2,), "stride": (3,)}),
    (1, (3,), {"groups": 3, "padding": [1]}),
    (2, (3, 3), {"padding": 1}),
    (2, (1, 1), {}),
    (2, (1, 1), {"stride": 2, "groups": 3}),
    (2, (3, 2), {"stride": (2, 1), "padding": (0, 2), "dilation": (1, 2)}),
    (2, (4, 3), {"padding": "same", "dilation": (1, 2)}),
    (2, (2, 4), {"padding": "same", "groups": 3}),
    (2, (3, 3), {"padding": "valid", "stride": 2, "groups": 3}),
    (2, (5, 3), {"padding": 2, "dilation": 2, "stride": 2, "groups": 3}),
    (3, (2, 3, 2), {}),
    (3, (3, 1, 2), {"stride": (1, 2, 1), "padding": (1, 0, 2), "dilation": (1, 1, 2), "groups": 3}),
    (3, (2, 3, 4), {"padding": "same"}),
]
TRANSPOSED_CASES: list[tuple[int, tuple[int, ...], dict[str, Any]]] = [
    (1, (3,), {}),
    (1, (4,), {"stride": 3, "padding": 1, "output_padding": 2}),
    (1, (3,), {"stride": (2,), "dilation": (2,), "groups": 3, "output_padding": (1,)}),
    (2, (4, 4), {"stride": 2, "padding": 1}),
    (2, (3, 2), {"stride": (2, 3), "padding": (1, 0), "output_padding": (1, 2), "dilation": (1, 2)}),
    (2, (3, 3), {"groups": 3, "padding": 1}),
    (2, (1, 1), {"groups": 3, "stride": 2}),
    (3, (2, 3, 2), {"padding": (1, 1, 0)}),
    (3, (2, 2, 3), {"stride": (1, 2, 2), "output_padding": (0, 1, 1), "dilation": (1, 1, 2), "groups": 3}),
]


@contextmanager
def computed(way: dict[str, Any]) -> Iterator[list[Way]]:
    """Compute every convolution in one way, as far as its arguments allow, and list the ways taken."""
    chosen = conv.plan
    taken: list[Way] = []

    def plan(x: Tensor, shape: torch.Size, rank: int, geometry: Any) -> Plan:
        how = chosen(x, shape, rank, geometry)._replace(**way)
        taps = taps_of(tuple(x.shape[2:]), tuple(shape[2:]), geometry)
        if how.way is Way.SHIFTS:
            how = how._replace(way=Way.KERNELS if taps is None else Way.SHIFTS, taps=taps)
        taken.append(how.way)
        return how._replace(keeps=how.keeps and not geometry.transposed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conv, "plan", plan)
        yield taken


def sizes(n: int) -> tuple[int, ...]:
    return {1: (13,), 2: (7, 8), 3: (5, 6, 5)}[n]


def cases() -> list[Any]:
    plain = [pytest.param(False, *case, id=f"conv{case[0]}d {case[1]} {case[2]}") for case in CASES]
    other = [pytest.param(True, *case, id=f"conv_transpose{case[0]}d {case[1]} {case[2]}") for case in TRANSPOSED_CASES]
    return plain + other


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize(("transposed", "n", "kernel", "options"), cases())
def test_every_option(transposed: bool, n: int, kernel: tuple[int, ...], options: dict[str, Any]) -> None:
    groups = options.get("groups", 1)
    shape = (6, 9 // groups, *kernel) if transposed else (9, 6 // groups, *kernel)
    op = (TRANSPOSED if transposed else PLAIN)[n]
    for number, scheme in enumerate(SCHEMES):
        for adapters in (0, 1, 2):
            turn = 2 * (3 * number + adapters)
            for way in (WAYS[turn % 7], WAYS[(turn + 1) % 7]) if adapters else WAYS[:1]:
                with computed(way):
                    layout = Layout(transposed=(number + adapters) % 2 == 1)  # both orientations of A and B
                    # Rank 1 needs fewer channels than the layer has, even with groups; ranks 3 + 4 do not.
                    rank = 1 if adapters == 1 else 3
                    weight = managed(shape, scheme, adapters, layout=layout, rank=rank)
                    x, bias = torch.randn(2, 6, *sizes(n)), torch.randn(9)
                    if (number + adapters) % 3:
                        compare(lambda w, x, b: op(x, w, b, **options), weight, x, bias)
                    else:
                        compare(lambda w, x: op(x, weight=w, **options), weight, x)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_depthwise(scheme: str, transposed: bool) -> None:
    # As in ConvNeXt: as many groups as channels, and a rank that is wider than a group.
    op = F.conv_transpose2d if transposed else F.conv2d
    for multiplier in (1, 2):
        shape = (8, multiplier, 3, 3) if transposed else (8 * multiplier, 1, 3, 3)
        for adapters in (1, 2):
            for way in WAYS:
                with computed(way):
                    weight = managed(shape, scheme, adapters)
                    x, bias = torch.randn(2, 8, 6, 6), torch.randn(8 * multiplier)
                    compare(lambda w, x, b: op(x, w, b, padding=1, groups=8), weight, x, bias)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("transposed", [False, True])
def test_unbatched(n: int, transposed: bool) -> None:
    op = (TRANSPOSED if transposed else PLAIN)[n]
    for scheme in ("plain", "nf4"):
        for way in WAYS:
            with computed(way):
                weight = managed((6, 6, *(3,) * n), scheme, 1)
                compare(lambda w, x, b: op(x, w, b, 2), weight, torch.randn(6, *sizes(n)), torch.randn(6))


@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect", "replicate"])
@pytest.mark.parametrize("layer", [nn.Conv1d, nn.Conv2d, nn.Conv3d])
def test_padding_modes_of_layers(layer: type[nn.Module], mode: str) -> None:
    n = [nn.Conv1d, nn.Conv2d, nn.Conv3d].index(layer) + 1  # type: ignore[arg-type]
    for padding in (1, "same", tuple(range(1, n + 1))):
        made = layer(6, 6, 3, padding=padding, padding_mode=mode, groups=2)
        for scheme in ("plain", "nf4", "int8"):
            weight = managed((6, 3, *(3,) * n), scheme, 1)

            def op(w: Any, x: Tensor, b: Tensor) -> Tensor:
                return made._conv_forward(x, w, b)  # type: ignore[attr-defined]  # noqa: B023

            compare(op, weight, torch.randn(2, 6, *sizes(n)), torch.randn(6))


@pytest.mark.parametrize("layer", [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d])
def test_output_size_of_transposed_layers(layer: type[nn.Module]) -> None:
    n = [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d].index(layer) + 1  # type: ignore[arg-type]
    made = layer(6, 4, 3, stride=2, padding=1).double()
    for scheme in ("plain", "nf4"):
        weight = managed((6, 4, *(3,) * n), scheme, 1)
        size = [2 * one for one in sizes(n)]

        def op(w: Any, x: Tensor, b: Tensor) -> Tensor:
            for name in ("weight", "bias"):
                made._parameters.pop(name, None)
            made.weight, made.bias = w, b
            return made(x, output_size=size)  # noqa: B023

        compare(op, weight, torch.randn(2, 6, *sizes(n)), torch.randn(4))


@pytest.mark.parametrize("scheme", ["plain", "nf4", "bf16", "dynamic8"])
def test_channels_last(scheme: str) -> None:
    for way in WAYS:
        for adapters in (0, 1, 2):
            with computed(way):
                weight = managed((9, 6, 3, 3), scheme, adapters)
                weight._zoo_store.to(memory_format=torch.channels_last)
                weight._zoo_store.to(memory_format=torch.channels_last)
                x = torch.randn(2, 6, 7, 8).to(memory_format=torch.channels_last)
                compare(lambda w, x: F.conv2d(x, w), weight, x)
                y = F.conv2d(x, weight)  # type: ignore[arg-type]
                assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("transposed", [False, True])
def test_a_base_that_trains(transposed: bool) -> None:
    op = F.conv_transpose2d if transposed else F.conv2d
    for adapters in (0, 1):
        for way in WAYS:
            with computed(way):
                weight = managed((6, 6, 3, 3), "plain", adapters, train_base=True)
                compare(lambda w, x, b: op(x, w, b, stride=2), weight, torch.randn(2, 6, 7, 8), torch.randn(6))


@pytest.mark.parametrize("which", ["x", "bias", "A", "B"])
@pytest.mark.parametrize("transposed", [False, True])
def test_one_gradient_alone(transposed: bool, which: str) -> None:
    op = F.conv_transpose2d if transposed else F.conv2d
    for way in WAYS:
        with computed(way):
            weight = managed((6, 6, 3, 3), "nf4", 1)
            update = weight._zoo_store.active_updates()[0]
            leaves = {"x": torch.randn(2, 6, 7, 8), "bias": torch.randn(6), "A": update.A, "B": update.B}
            for one in leaves.values():
                one.requires_grad_()
            y = op(leaves["x"], weight, leaves["bias"], 2)  # type: ignore[arg-type]
            g = torch.randn_like(y)
            expected = dict(zip(leaves, torch.autograd.grad(y, list(leaves.values()), g), strict=True))[which]
            for name, one in leaves.items():
                one.requires_grad_(name == which)
            y = op(leaves["x"], weight, leaves["bias"], 2)  # type: ignore[arg-type]
            (found,) = torch.autograd.grad(y, [leaves[which]], g)
            torch.testing.assert_close(found, expected)


def test_an_empty_batch() -> None:
    for scheme in ("plain", "nf4"):
        for transposed in (False, True):
            op = F.conv_transpose2d if transposed else F.conv2d
            for way in WAYS:
                with computed(way):
                    weight = managed((6, 6, 3, 3), scheme, 1)
                    x = torch.randn(0, 6, 7, 8, requires_grad=True)
                    y = op(x, weight, torch.randn(6))  # type: ignore[arg-type]
                    assert y.shape == op(x, weight.dense()).shape
                    y.sum().backward()
                    for factor in weight._zoo_store.active_updates()[0].parameters():
                        assert factor.grad is not None
                        assert not factor.grad.any()


def test_wrong_calls_are_the_librarys_own_errors() -> None:
    weight, plain = managed((6, 3, 3, 3), "nf4", 1), torch.randn(6, 3, 3, 3)
    x = torch.randn(2, 6, 7, 8)
    for call in (
        lambda w: F.conv2d(x, w),
        lambda w: F.conv2d(x, w, groups=3),
        lambda w: F.conv2d(x.double(), w, groups=2),
        lambda w: F.conv2d(x, w, padding="same", stride=2, groups=2),
        lambda w: F.conv2d(x, w, padding="other", groups=2),
        lambda w: F.conv2d(x, w, torch.randn(5), groups=2),
        lambda w: F.conv2d(x, w, padding=(1, 1, 1), groups=2),
        lambda w: F.conv2d(x, w, stride=0, groups=2),
        lambda w: F.conv1d(torch.randn(2, 6, 7), w, groups=2),
        lambda w: F.conv_transpose2d(x, w, stride=1, output_padding=2),
        lambda w: F.conv2d(torch.randn(2, 6, 2, 2), w, groups=2),
    ):
        for _ in range(2):
            with pytest.raises((RuntimeError, ValueError)) as expected:
                call(plain)
            with pytest.raises(type(expected.value)):
                call(weight)


@pytest.mark.parametrize("scheme", QUANTIZED)
def test_nothing_dense_is_kept(scheme: str) -> None:
    for n in (1, 2, 3):
        for transposed in (False, True):
            op = (TRANSPOSED if transposed else PLAIN)[n]
            for way in WAYS:
                for adapters in (0, 1, 2):
                    with computed(way):
                        weight = managed((8, 8, *(3,) * n), scheme, adapters)
                        x = torch.randn(2, 8, *sizes(n), requires_grad=True)
                        bias = torch.randn(8, requires_grad=True)
                        kept, made = dense_kept(lambda: op(x, weight, bias), weight)  # noqa: B023
                        assert made
                        assert not kept, kept


@pytest.mark.parametrize("transposed", [False, True])
def test_x_is_kept_only_for_what_trains(transposed: bool) -> None:
    op = F.conv_transpose2d if transposed else F.conv2d
    for adapters in (0, 1):
        weight = managed((6, 6, 3, 3), "nf4", adapters)
        x = torch.randn(2, 6, 7, 8, requires_grad=True)
        saved = saved_by(lambda: op(x, weight))  # type: ignore[arg-type]  # noqa: B023
        assert any(one.data_ptr() == x.data_ptr() for one in saved) == bool(adapters)


SIXTEEN_BITS = [
    pytest.param((12, 12, 3, 3), (2, 12, 8, 8), {"padding": 1}, None, id="small"),
    pytest.param((40, 32, 3, 3), (8, 32, 14, 14), {"padding": 1}, Way.SHIFTS, id="3x3"),
    pytest.param((80, 64, 1, 1), (8, 64, 24, 24), {}, Way.SHIFTS, id="1x1"),
    pytest.param((64, 64, 5), (8, 64, 120), {"padding": 4, "dilation": 2}, Way.SHIFTS, id="1d, dilated"),
    pytest.param((64, 64, 3, 3), (8, 64, 24, 24), {"padding": 1, "stride": 2}, Way.KERNELS, id="strided"),
    pytest.param((96, 1, 7, 7), (8, 96, 30, 30), {"padding": 3, "groups": 96}, Way.DENSE, id="depthwise"),
]


@pytest.mark.parametrize("scheme", ["plain", "nf4"])
@pytest.mark.parametrize(("shape", "size", "options", "way"), SIXTEEN_BITS)
def test_sixteen_bits(
    shape: tuple[int, ...], size: tuple[int, ...], options: dict[str, Any], way: Way | None, scheme: str
) -> None:
    """About as accurate as two convolutions through the factors in 16 bits: sums of products rounded once more."""
    op = PLAIN[len(size) - 2]
    last = [False, True] if len(size) == 4 else [False]
    for channels_last in last:
        weight = managed(shape, scheme, 1, dtype=torch.bfloat16)
        x = torch.randn(*size).bfloat16()
        if channels_last:
            x = x.to(memory_format=torch.channels_last)
        dense, leaves = reference(weight._zoo_store)
        x64 = x.double().requires_grad_()
        expected = op(x64, dense, **options)
        g = torch.randn_like(expected)
        right = torch.autograd.grad(expected, [x64, *leaves], g)
        mine = x.detach().requires_grad_()
        with computed({}) as taken:
            y = op(mine, weight, **options)
        assert way is None or taken == [way]
        found = torch.autograd.grad(y, [mine, *trained(weight._zoo_store)], g.bfloat16())
        update = weight._zoo_store.active_updates()[0]
        A, B = (one.detach().clone().requires_grad_() for one in (update.A, update.B))
        theirs, plain = x.detach().requires_grad_(), weight._zoo_store.base_tensor().detach()
        ones = (1,) * (len(size) - 2)
        groups = options.get("groups", 1)
        if groups == 1:
            hidden = op(theirs, A.bfloat16().view(-1, *shape[1:]), **options)
            part = op(hidden, B.bfloat16().view(shape[0], -1, *ones))
        else:
            part = op(theirs, (B.bfloat16() @ A.bfloat16()).view(shape), **options)
        peer = op(theirs, plain, **options) + update.scale * part
        peers = torch.autograd.grad(peer, [theirs, A, B], g.bfloat16())
        for name, one, other, exact in zip(
            ("y", "x", "A", "B"), (y, *found), (peer, *peers), (expected, *right), strict=True
        ):
            assert one.dtype == other.dtype, name
            off = (one.double() - exact).norm() / exact.norm()
            assert off <= 1.25 * (other.double() - exact).norm() / exact.norm() + 1e-5, name
            assert error(one, exact) < 0.05, name


def test_small_convolutions_of_sixteen_bits_are_computed_in_float32() -> None:
    weight = managed((8, 8, 3, 3), "plain", 1, dtype=torch.bfloat16)
    x = torch.randn(2, 8, 6, 6).bfloat16()
    expected = F.conv2d(x.double(), reference(weight._zoo_store).weight, padding=1)
    y = F.conv2d(x, weight, padding=1)  # type: ignore[arg-type]
    assert torch.equal(y, expected.bfloat16()) or error(y, expected.bfloat16()) < 1e-2
    assert (y == expected.bfloat16()).double().mean() > 0.99  # rounded once, at the end
