"""Low-rank updates of many groups of rows in two products, where a loop over the groups would cost more than they do.

Notation: g groups of m rows each, with rows twice where a group has fewer; r the largest rank; `count` is the number of
rows of the whole batch, t the positions of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.weights.row_views import Group, RowViews

FEWEST = 3  # groups
PADDING = 2  # times the rows that there are


class Stack(NamedTuple):
    """The updates of some groups of rows.

    Attributes:
        rest: The other groups.
        take: Which row of the batch is in each place, int64 (g · m,); None if every row is in its own.
        places: In which place each of `rows` is, int64 (k,).
        rows: The groups' rows, int64 (k,).
        left: (g, rows of the weight, r), with the scales.
        right: (g, r, columns).
        numbers: The groups' numbers in the bank.
        changes: How often the bank had changed.
    """

    rest: tuple[Group, ...]
    take: Tensor | None
    places: Tensor
    rows: Tensor
    left: Tensor
    right: Tensor
    numbers: list[int | None]
    changes: int

    def add(self, y: Tensor, x: Tensor, flip: bool) -> None:
        """Add the updates' share of x @ W.T, or with `flip` of x @ W, to y.

        Args:
            y: (count, ..., out), the caller's own.
            x: (count, ..., in).
            flip: See `zoo.weights.ops.linear`.
        """
        g = len(self.left)
        down, up = (self.left, self.right) if flip else (self.right.mT, self.left.mT)  # (g, in, r), (g, r, out)
        flat = y.view(len(y), -1, y.shape[-1])  # (count, t, out)
        if self.take is None:
            flat.view(g, -1, y.shape[-1]).baddbmm_(x.reshape(g, -1, x.shape[-1]).bmm(down), up)
            return
        x = x.reshape(len(x), -1, x.shape[-1])  # (count, t, in)
        hidden = x.index_select(0, self.take).view(g, -1, x.shape[-1]).bmm(down)  # (g, m · t, r)
        found = flat.index_select(0, self.take).view(g, -1, y.shape[-1])  # (g, m · t, out)
        found = found.baddbmm_(hidden, up).view(-1, *flat.shape[1:])  # (g · m, t, out)
        flat.index_copy_(0, self.rows, found.index_select(0, self.places))


def stack_of(weight: RowViews, dtype: torch.dtype, device: torch.device) -> Stack | None:
    """Return the updates that are better added together; None if none are."""
    if len(weight.groups) < FEWEST:
        return None
    bank = weight.bank
    numbers = bank.numbers([group.view for group in weight.groups], dtype, device)
    kept = weight.stack
    if not isinstance(kept, Stack) or kept.changes != bank.changes or kept.numbers != numbers:
        kept = weight.stack = _made(weight, numbers, device)
    return kept


def _made(weight: RowViews, numbers: list[int | None], device: torch.device) -> Stack | None:
    known = [number for number, own in enumerate(numbers) if own is not None]
    known.sort(
        key=lambda number: weight.groups[number].size, reverse=True
    )  # equal ones stay in the order of their rows
    known = known[_first([weight.groups[number].size for number in known]) :]
    if len(known) < FEWEST:
        return None
    key = tuple(id(weight.groups[number].rows) for number in known)  # the same objects in all weights of a batch
    if key not in weight.plans:
        weight.plans[key] = _plan([weight.groups[number].numbers() for number in known], weight.count, device)
    used = [numbers[number] for number in known]
    bank = weight.bank
    left, right = bank.left, bank.right
    if used == list(range(len(used))):
        left, right = left[: len(used)], right[: len(used)]
    else:
        index = torch.tensor(used, device=device)
        left, right = left.index_select(0, index), right.index_select(0, index)
    rest = tuple(group for number, group in enumerate(weight.groups) if number not in known)
    take, places, rows = weight.plans[key]
    return Stack(rest, take, places, rows, left, right, numbers, bank.changes)


def _plan(rows: Sequence[list[int]], count: int, device: torch.device) -> tuple[Tensor | None, Tensor, Tensor]:
    """Return `take`, `places` and `rows` of a stack of groups, the largest first."""
    m = len(rows[0])
    take = [number for own in rows for number in (own * m)[:m]]
    places = [m * at + place for at, own in enumerate(rows) for place in range(len(own))]
    every = [number for own in rows for number in own]
    taken, *others = (torch.tensor(one, device=device) for one in (take, places, every))
    return None if take == list(range(count)) else taken, others[0], others[1]


def _first(sizes: Sequence[int]) -> int:
    """Return how many of the largest groups are left out, so that the others are not padded too much."""
    total = sum(sizes)
    for number, size in enumerate(sizes):
        if size * (len(sizes) - number) <= PADDING * total:
            return number
        total -= size
    return len(sizes)
