"""Context managers for a training mode, for random numbers from a seed, and for running compiled code uncompiled."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from zoo.torch_state.own_random import Generators, drawing_from
from zoo.torch_state.turns import turns_of

_lock = threading.Lock()
_blocks: list[None] = []  # of `uncompiled`, that have not ended, in all threads


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


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run what torch.compile has compiled as it was written: in the block, and as long in other threads."""
    with _lock:
        _blocks.append(None)
        if len(_blocks) == 1:
            torch.compiler.set_stance("force_eager")
    try:
        yield
    finally:
        with _lock:
            _blocks.pop()
            if not _blocks:
                torch.compiler.set_stance("default")
