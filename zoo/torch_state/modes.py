"""Context managers for a training mode and for random numbers from a seed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from zoo.torch_state.own_random import Generators, drawing_from
from zoo.torch_state.turns import turns_of


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode; every submodule gets its own mode back on exit.

    Modes are the module's, and so seen by every thread: a module that is in training mode is this thread's alone in the
    block, and other threads wait; one that is in evaluation mode already is only used.
    """
    turns = turns_of(module)
    with turns:
        if not any(layer.training for layer in module.modules()):
            yield
            return
    with turns.changing():
        before = [(layer, layer.training) for layer in module.modules()]
        module.eval()
        try:
            yield
        finally:
            for layer, training in before:
                layer.training = training


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Let torch draw from `seed` in the block, in this thread alone; its global generators are not touched.

    Args:
        seed: as `torch.manual_seed` takes it; None changes nothing.
    """
    if seed is None:
        yield
        return
    with drawing_from(Generators(seed)):
        yield
