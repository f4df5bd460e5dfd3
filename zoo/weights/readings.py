"""Numbers of a device by which the host decides something, read together: it waits once, and not for each of them.

Whether a weight is finite, how far it is from what it was made from, by how much a merge changes it: each is a number
that is computed where the weight is. Reading one waits for all that the device was asked to do before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.errors import QuantizationError

HELD = 256 << 20  # bytes that those who wait for their numbers may hold on the device together

Then = Callable[[list[float]], None]


class _Waiting(NamedTuple):
    """Numbers [n] on a device, what to call with them, and the weight that they are about."""

    values: Tensor
    then: Then
    name: str | None


class _Readings:
    def __init__(self) -> None:
        self.waiting: list[_Waiting] = []
        self.held = 0

    def read(self) -> None:
        """Call everyone who waits with their numbers, in order."""
        waiting, self.waiting, self.held = self.waiting, [], 0
        numbers: dict[torch.device, Iterator[float]] = {}
        for device in dict.fromkeys(one.values.device for one in waiting):
            mine = [one.values.to(wide(device)) for one in waiting if one.values.device == device]
            numbers[device] = iter(torch.cat(mine).tolist())
        for values, then, name in waiting:
            own = [next(numbers[values.device]) for _ in range(len(values))]
            try:
                then(own)
            except QuantizationError as error:
                raise error if name is None else QuantizationError(f"{name}: {error}") from error


_current: ContextVar[_Readings | None] = ContextVar("readings", default=None)
_name: ContextVar[str | None] = ContextVar("read_for", default=None)


def wide(device: torch.device) -> torch.dtype:
    """Return the widest float type that a device computes in."""
    return torch.float32 if device.type == "mps" else torch.float64


def numbers(values: Iterable[float | Tensor]) -> list[float]:
    """Return numbers, of which those in tensors () of a device are read together."""
    found = list(values)
    tensors = {place: one for place, one in enumerate(found) if isinstance(one, Tensor)}
    for device in dict.fromkeys(one.device for one in tensors.values()):
        mine = {place: one for place, one in tensors.items() if one.device == device}
        read = torch.stack([one.detach().to(wide(device)) for one in mine.values()]).tolist()
        for place, number in zip(mine, read, strict=True):
            found[place] = number
    return [float(one) for one in found]


@contextmanager
def reading_together(device: torch.device) -> Iterator[None]:
    """Let `later` wait in the block, in this thread, and read all numbers together at its end.

    Not on the CPU, where nothing has to be waited for, and mistakes are told at once.

    Raises:
        ZooError: what the functions raise that are called with the numbers.
    """
    if device.type in ("cpu", "meta") or _current.get() is not None:
        yield
        return
    readings = _Readings()
    token = _current.set(readings)
    try:
        yield
    finally:
        _current.reset(token)
    readings.read()


@contextmanager
def read_for(name: str) -> Iterator[None]:
    """Put the name of a weight before the `QuantizationError` of whoever asks for numbers in the block."""
    token = _name.set(name)
    try:
        yield
    finally:
        _name.reset(token)


def waits() -> bool:
    """Return whether `later` would wait."""
    return _current.get() is not None


def later(values: Tensor, then: Then, holds: int = 0) -> None:
    """Call `then` with the numbers of `values` [n]: at once, or at the end of the block of `reading_together`.

    Args:
        values: on any device.
        then: may raise.
        holds: bytes that it keeps on the device until then. Beyond `HELD` bytes the numbers are read before the end.
    """
    readings = _current.get()
    if readings is None or values.device.type == "cpu":
        then([float(value) for value in values.tolist()])
        return
    readings.waiting.append(_Waiting(values.detach(), then, _name.get()))
    readings.held += holds
    if readings.held > HELD:
        token = _current.set(None)
        try:
            readings.read()
        finally:
            _current.reset(token)
