"""Weights for other images: as timm makes them."""

from __future__ import annotations

import random

import pytest
import torch

import zoo
from zoo.integrations.resized import fit_channels, fit_positions, resized


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 8])
def test_kernels_are_summed_or_repeated_as_in_timm(channels: int) -> None:
    from timm.models import adapt_input_conv

    kernels = torch.randn(5, 3, 2, 4)
    assert torch.equal(fit_channels(kernels, channels), adapt_input_conv(channels, kernels.clone()))


def test_grey_kernels_become_those_of_colour() -> None:
    grey, picture = torch.randn(5, 1, 4, 4), torch.rand(2, 1, 9, 9)
    colour = fit_channels(grey, 3)
    same = torch.nn.functional.conv2d(picture.expand(-1, 3, -1, -1), colour)
    assert torch.allclose(same, torch.nn.functional.conv2d(picture, grey), atol=1e-5)


@pytest.mark.parametrize("front", [0, 1, 2])
def test_positions_are_resized_as_in_timm(front: int) -> None:
    from timm.layers import resample_abs_pos_embed

    before, after = (random.randint(2, 6), random.randint(2, 6)), (random.randint(2, 9), random.randint(2, 9))
    table = torch.randn(1, front + before[0] * before[1], 7)
    wanted = resample_abs_pos_embed(table, list(after), list(before), num_prefix_tokens=front)
    assert torch.allclose(fit_positions(table, before, after), wanted, atol=1e-6)
    assert torch.allclose(fit_positions(table[0], before, after), wanted[0], atol=1e-6)


def test_only_what_depends_on_the_images_changes() -> None:
    entry = zoo.Entry("x", None, head=zoo.Head(image_size=(16, 24), channels=1))
    tensors = {"patch": torch.randn(4, 3, 8, 8), "pos": torch.randn(1, 5, 4), "head": torch.randn(9, 4)}
    shapes = {"patch": (4, 1, 8, 8), "pos": (1, 7, 4), "head": (3, 4)}
    found = dict(resized(entry, tensors.items(), shapes, ((2, 2), (2, 3))))
    assert [tuple(found[name].shape) for name in shapes] == [(4, 1, 8, 8), (1, 7, 4), (9, 4)]
    assert torch.equal(found["pos"][:, :1], tensors["pos"][:, :1])
    untouched = dict(resized(zoo.Entry("x", None), tensors.items(), shapes))
    assert all(untouched[name] is tensors[name] for name in tensors)
