"""Copies of many low-rank updates of one weight side by side, so that two products can add all of them.

Notation: n updates; r the largest rank, smaller ones have zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.offload import HOOK
from zoo.weights.update import Factors, Update

LARGEST = 1 << 17  # bytes of an update: a loop's turn, some 15 µs on a CPU, is as long as copying so much takes
KEPT = 1 << 28  # bytes of all weights of a module together


class Room:
    """How many more bytes may be kept."""

    def __init__(self, size: int = KEPT) -> None:
        self.left = size

    def take(self, size: int) -> bool:
        """Take so many bytes, a negative number to give them back; returns False if they are not left."""
        if size > self.left:
            return False
        self.left -= size
        return True


class _Copied(NamedTuple):
    """What was copied of a view.

    Attributes:
        factors: The factors, as they were looked up.
        places: The tensors, each with where it is.
        versions: How often each had been written to.
        scales: The scales of the updates.
    """

    factors: Factors
    places: list[tuple[dict[str, Tensor | None], str, Tensor]]
    versions: list[int]
    scales: list[object]


class Bank:
    """The low-rank updates of one weight under different adapters.

    A view has its place from its second use on, so that a batch that is computed once copies nothing.

    Attributes:
        left: (n, rows, r), with the scales.
        right: (n, r, columns).
        changes: How often anything in it changed.
    """

    def __init__(self, room: Room) -> None:
        self.left, self.right = torch.zeros(0, 0, 0), torch.zeros(0, 0, 0)
        self.changes = 0
        self._room = room
        self._seen: set[ManagedWeight] = set()
        self._numbers: dict[ManagedWeight, int | None] = {}  # None: it cannot be here
        self._copied: list[_Copied] = []

    def numbers(self, views: Sequence[ManagedWeight], dtype: torch.dtype, device: torch.device) -> list[int | None]:
        """Return each view's number among the updates; None of one that has none, which another way has to add.

        Args:
            views: The weight's, with adapters.
            dtype: The dtype that the factors are wanted in.
            device: Where they are wanted.
        """
        if self._copied and (self.left.dtype is not dtype or self.left.device != device):
            self._clear()
        for view in views:
            number = self._numbers.get(view, -1)
            if number == -1 and view in self._seen:
                self._add(view, dtype, device)
            elif number == -1:
                self._seen.add(view)
            elif number is not None and not _is_current(view, self._copied[number]):
                self._clear()
                return self.numbers(views, dtype, device)
        return [self._numbers.get(view) for view in views]

    def _clear(self) -> None:
        """Forget the copies; what was seen is copied anew."""
        self._room.take(-self._bytes())
        self.left, self.right = torch.zeros(0, 0, 0), torch.zeros(0, 0, 0)
        self._numbers.clear()
        self._copied.clear()
        self.changes += 1

    def _bytes(self) -> int:
        return self.left.nbytes + self.right.nbytes

    def _add(self, view: ManagedWeight, dtype: torch.dtype, device: torch.device) -> None:
        copied = _looked_up(view, device)
        self._numbers[view] = None
        if copied is None:
            return
        left, right, scale = copied.factors
        number, rank = len(self._copied), max(right.shape[0], self.right.shape[1])
        if (left.shape[0] + right.shape[1]) * rank * dtype.itemsize > LARGEST:
            return
        if number >= len(self.left) or rank > self.right.shape[1]:
            room = max(4, number + 1, 2 * number if number >= len(self.left) else len(self.left))
            sizes = (room, left.shape[0], rank), (room, rank, right.shape[1])
            size = sum(n * rows * columns for n, rows, columns in sizes) * dtype.itemsize
            if not self._room.take(size - self._bytes()):
                return
            before = self.left, self.right
            self.left, self.right = (torch.zeros(one, dtype=dtype, device=device) for one in sizes)
            if number:
                self.left[:number, :, : before[0].shape[2]] = before[0][:number]
                self.right[:number, : before[1].shape[1]] = before[1][:number]
        self.left[number, :, : left.shape[1]] = left
        self.left[number] *= scale
        self.right[number, : right.shape[0]] = right
        self._copied.append(copied)
        self._numbers[view] = number
        self.changes += 1


def _looked_up(view: ManagedWeight, device: torch.device) -> _Copied | None:
    """Return what there is to copy of a view; None if it does more than to add one low-rank matrix to the base."""
    updates: tuple[Update, ...] = view.active_updates()
    if view._replacing or len(updates) != 1 or HOOK in updates[0].__dict__:
        return None
    factors = view.factors()
    if not factors or factors[0].right.device != device:
        return None
    own: dict[str, Tensor | None] = updates[0]._parameters  # type: ignore[assignment]
    places = [(own, name, tensor) for name, tensor in own.items() if tensor is not None]
    known = {id(tensor) for _, _, tensor in places}
    for tensor in factors[0][:2]:  # what is computed may depend on anything
        if id(tensor) not in known and id(tensor._base) not in known:
            return None
    return _Copied(factors[0], places, [tensor._version for _, _, tensor in places], _scales(view))


def _is_current(view: ManagedWeight, copied: _Copied) -> bool:
    places = copied.places
    return (
        [tensor._version for _, _, tensor in places] == copied.versions
        and all(where[name] is tensor for where, name, tensor in places)
        and _scales(view) == copied.scales
    )


def _scales(view: ManagedWeight) -> list[object]:
    return [view._shares, *(update.__dict__.get("scale") for update in view._updates_in_use)]
