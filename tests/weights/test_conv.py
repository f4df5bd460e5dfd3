"""Convolutions, plain and transposed, with a managed weight: every option of every dimension, against float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.weights.layout import Layout

from .helpers import FOLDING, QUANTIZED, SCHEMES, compare, dense_kept, folding, managed, saved_by

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
            for fold in FOLDING if adapters else (True,):
                with folding(fold):
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
            for fold in FOLDING:
                with folding(fold):
                    weight = managed(shape, scheme, adapters)
                    x, bias = torch.randn(2, 8, 6, 6), torch.randn(8 * multiplier)
                    compare(lambda w, x, b: op(x, w, b, padding=1, groups=8), weight, x, bias)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("transposed", [False, True])
def test_unbatched(n: int, transposed: bool) -> None:
    op = (TRANSPOSED if transposed else PLAIN)[n]
    for scheme in ("plain", "nf4"):
        for fold in FOLDING:
            with folding(fold):
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
    for fold in FOLDING:
        for adapters in (0, 1, 2):
            with folding(fold):
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
        for fold in FOLDING:
            with folding(fold):
                weight = managed((6, 6, 3, 3), "plain", adapters, train_base=True)
                compare(lambda w, x, b: op(x, w, b, stride=2), weight, torch.randn(2, 6, 7, 8), torch.randn(6))


@pytest.mark.parametrize("which", ["x", "bias", "A", "B"])
@pytest.mark.parametrize("transposed", [False, True])
def test_one_gradient_alone(transposed: bool, which: str) -> None:
    op = F.conv_transpose2d if transposed else F.conv2d
    for fold in FOLDING:
        with folding(fold):
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
            for fold in FOLDING:
                with folding(fold):
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
            for fold in FOLDING:
                for adapters in (0, 1, 2):
                    with folding(fold):
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
