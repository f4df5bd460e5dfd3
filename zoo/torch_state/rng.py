"""Seed, save and restore the global random state of Python, NumPy and torch."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class RandomState:
    """The state of the global generators at one moment.

    Attributes:
        python: as `random.getstate` returns it.
        numpy: as `numpy.random.get_state` returns it.
        torch: of the CPU, uint8 (bytes,).
        device: of the other device, uint8 (bytes,); None if the device is the CPU.
    """

    python: tuple[Any, ...]
    numpy: dict[str, Any]
    torch: Tensor
    device: Tensor | None

    def tensors(self) -> dict[str, Tensor]:
        """Return the part of the state that is tensors."""
        found = {"torch": self.torch, "numpy": torch.from_numpy(self.numpy["state"]["key"].astype(np.int64))}
        return found if self.device is None else {**found, "device": self.device}

    def scalars(self) -> dict[str, Any]:
        """Return the rest of the state, as JSON can represent it."""
        numpy = {"pos": self.numpy["state"]["pos"], "has_gauss": self.numpy["has_gauss"], "gauss": self.numpy["gauss"]}
        return {"python": [self.python[0], list(self.python[1]), self.python[2]], "numpy": numpy}

    @classmethod
    def restored(cls, tensors: dict[str, Tensor], scalars: dict[str, Any]) -> RandomState:
        """Return the state that has these `tensors()` and `scalars()`."""
        version, words, gauss = scalars["python"]
        numpy = scalars["numpy"]
        key = tensors["numpy"].numpy().astype(np.uint32)
        return cls(
            python=(version, tuple(words), gauss),
            numpy={
                "bit_generator": "MT19937",
                "state": {"key": key, "pos": numpy["pos"]},
                "has_gauss": numpy["has_gauss"],
                "gauss": numpy["gauss"],
            },
            torch=tensors["torch"],
            device=tensors.get("device"),
        )


def random_state(device: torch.device) -> RandomState:
    """Return the current state of the CPU's generators and of `device`'s."""
    return RandomState(
        python=random.getstate(),
        numpy=np.random.get_state(legacy=False),  # noqa: NPY002 - the global one is meant
        torch=torch.get_rng_state(),
        device=None if device.type == "cpu" else _backend(device).get_rng_state(*_index(device)),
    )


def set_random_state(state: RandomState, device: torch.device) -> None:
    """Restore the state that `random_state` returned."""
    random.setstate(state.python)
    np.random.set_state(state.numpy)  # noqa: NPY002
    torch.set_rng_state(state.torch)
    if state.device is not None:
        _backend(device).set_rng_state(state.device, *_index(device))


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch on every device."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)


@contextmanager
def preserve_rng(device: torch.device) -> Iterator[None]:
    """Restore the global random state on exit, whatever the block draws or seeds."""
    before = random_state(device)
    try:
        yield
    finally:
        set_random_state(before, device)


class IsolatedIterator:
    """An iterator that draws from CPU generators of its own, seeded once.

    So what batches draw (shuffling, augmentation, a DataLoader's seeds) does not depend on what the loss draws, and
    skipping the first k batches leads to the very batches that a run without a pause would see.
    """

    def __init__(self, make: Any, seed: int) -> None:
        self._cpu = torch.device("cpu")
        with preserve_rng(self._cpu):
            # torch.manual_seed would seed the devices as well, and those are not put back here.
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            torch.default_generator.manual_seed(seed)
            self._items = iter(make())
            self._state = random_state(self._cpu)

    def __iter__(self) -> IsolatedIterator:
        return self

    def __next__(self) -> Any:
        with preserve_rng(self._cpu):
            set_random_state(self._state, self._cpu)
            item = next(self._items)
            self._state = random_state(self._cpu)
        return item

    def skip(self, count: int) -> None:
        """Pass over `count` items: by the iterator's own method where it has one, else by making them.

        Raises:
            StopIteration: there are fewer.
        """
        with preserve_rng(self._cpu):
            set_random_state(self._state, self._cpu)
            own = getattr(self._items, "skip", None)
            if own is not None:
                own(count)
            for _ in range(0 if own is not None else count):
                next(self._items)
            self._state = random_state(self._cpu)


def _backend(device: torch.device) -> Any:
    return getattr(torch, device.type)


def _index(device: torch.device) -> tuple[torch.device, ...]:
    return () if device.type == "mps" else (device,)
