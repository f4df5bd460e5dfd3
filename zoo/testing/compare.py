"""Compare the outputs of models, and watch the state that they must not change."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.testing.failures import CheckFailed
from zoo.torch_state.modes import evaluating, seeded

if TYPE_CHECKING:
    from zoo.model import Model


def same(one: Any, two: Any) -> bool:
    """Return whether two batches, samples' data or the like are equal, tensors bit for bit."""
    if isinstance(one, Tensor):
        return isinstance(two, Tensor) and one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, dict):
        return isinstance(two, dict) and one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(two) and len(one) == len(two) and all(map(same, one, two))
    equal = one == two
    return bool(equal.all()) if hasattr(equal, "all") else bool(equal)


def close(one: float, two: float, tolerance: float = 1e-4) -> bool:
    """Return whether two losses are equal but for rounding, which differs with the order of sums."""
    return abs(one - two) <= tolerance * max(abs(one), abs(two), 1e-3)


def loss_of(model: Model, batch: Any) -> float:
    """Return the loss in evaluation mode, with a fixed seed for what it draws; the global random state stays."""
    with seeded(0), evaluating(model.module), torch.enable_grad():
        return float(model.loss(batch).detach())


def backward(model: Model, batch: Any) -> None:
    """Compute the gradients of the loss, with a fixed seed for what it draws."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model.loss(batch).backward()


@torch.no_grad()
def perturb(model: Model, scale: float = 0.05) -> None:
    """Add noise to every parameter of the active adapters, as training would change them; the same at each call."""
    generator = torch.Generator().manual_seed(0)
    for _, parameter in model.trainable_parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
        parameter.add_(scale * noise.to(parameter.device, parameter.dtype))


def tensors_of(value: Any) -> Iterator[Tensor]:
    """Yield every tensor in nested dicts, lists, tuples and objects with attributes."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_of(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_of(item)
    elif hasattr(value, "__dict__"):
        yield from tensors_of(vars(value))


def _random_states() -> tuple[Any, ...]:
    numpy = sys.modules.get("numpy")
    return torch.get_rng_state(), random.getstate(), numpy.random.get_state() if numpy is not None else None


@contextmanager
def random_state_untouched(fix: str) -> Iterator[None]:
    """Raise `CheckFailed` if torch's, Python's or numpy's global random state is another one afterwards."""
    before = _random_states()
    yield
    changed = _changed(before)
    if changed:
        raise CheckFailed(f"{changed[0]} is changed", fix)


def watched(model: Model, call: Callable[[], Any]) -> tuple[Any, tuple[str, ...]]:
    """Return the result of a call in training mode and from a new global random state, and what of both it changed.

    Afterwards the model is in evaluation mode, and the random state as it was before.
    """
    kept = random.getstate()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(time.time_ns())
        model.train()
        try:
            states, modes = _random_states(), [layer.training for layer in model.module.modules()]
            given = call()
            changed = _changed(states)
            if [layer.training for layer in model.module.modules()] != modes:
                changed = (*changed, "the training mode of a module")
        finally:
            model.eval()
            random.setstate(kept)
    return given, changed


def _changed(before: tuple[Any, ...]) -> tuple[str, ...]:
    libraries = ("torch", "Python", "numpy")
    pairs = zip(libraries, before, _random_states(), strict=True)
    return tuple(f"{library}'s global random state" for library, one, two in pairs if not same(one, two))
