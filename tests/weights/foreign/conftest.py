from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import zoo

Cycle = Callable[[nn.Module, Tensor], zoo.Model]


@pytest.fixture
def cycle(perturb: Callable[..., None]) -> Callable[..., zoo.Model]:
    """Wrap, train a step, merge, unmerge, unload: the base is the library's own at the end. Returns the model."""

    def run(module: nn.Module, x: Tensor, *, merged: float = 2e-5, new: float = 2e-5) -> zoo.Model:
        before, keys = module(x).detach(), {name: value.shape for name, value in module.state_dict().items()}
        model = zoo.wrap(module, lora=4, seed=0)
        torch.testing.assert_close(model(x).detach(), before, rtol=new, atol=new)
        perturb(model)
        y = model(x)
        y.square().sum().backward()
        assert not torch.allclose(y.detach(), before, atol=1e-2)
        assert all(one.grad is not None and one.grad.abs().sum() > 0 for _, one in model.trainable_parameters())
        bits = {name: value.clone() for name, value in model.module.state_dict().items()}
        model.merge()
        torch.testing.assert_close(model(x).detach(), y.detach(), rtol=merged, atol=merged)
        model.unmerge()
        torch.testing.assert_close(model(x), y, rtol=0, atol=0)
        after = model.module.state_dict()
        assert bits.keys() == after.keys()
        assert all(raw(value).equal(raw(after[name])) for name, value in bits.items())
        model.deactivate()
        torch.testing.assert_close(model(x).detach(), before, rtol=new, atol=new)
        returned = model.unload()
        assert {name: value.shape for name, value in returned.state_dict().items()} == keys
        torch.testing.assert_close(returned(x).detach(), before, rtol=0, atol=0)
        assert not {"forward", "weight"} & {name for layer in returned.modules() for name in layer.__dict__}
        return model

    return run


def raw(tensor: Tensor) -> Tensor:
    """The bytes of a tensor: NaN of 8-bit floats is not equal to itself."""
    return tensor.detach().reshape(-1).view(torch.uint8)
