"""A managed weight that differs between the rows of a batch: for each group of rows one of its views.

The rows are the entries of an operand's first dimension. Names: `count` is the number of rows of the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from zoo.weights.layout import Layout
from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.row_bank import Bank
from zoo.weights.update import Factors, Update


class NotByRow(Exception):
    """An operation cannot be computed with another weight for each row, or not surely.

    No error of a user's: whoever chose rows catches it, and runs each choice of views by itself.
    """


class Group(NamedTuple):
    """Rows that share a view.

    Attributes:
        view: The view.
        rows: The rows, a slice where they are consecutive, else int64 (k,).
    """

    view: ManagedWeight
    rows: slice | Tensor

    @property
    def size(self) -> int:
        """How many rows there are."""
        return self.rows.stop - self.rows.start if isinstance(self.rows, slice) else len(self.rows)

    def of(self, tensor: Tensor) -> Tensor:
        """Return this group's rows of a tensor, (count, ...) → (k, ...); they are a view of it if consecutive."""
        return tensor[self.rows] if isinstance(self.rows, slice) else tensor.index_select(0, self._index(tensor))

    def numbers(self) -> list[int]:
        """Return the rows' numbers."""
        rows = self.rows
        return list(range(rows.start, rows.stop)) if isinstance(rows, slice) else rows.tolist()

    def write(self, part: Tensor, to: Tensor) -> None:
        """Write (k, ...) to this group's rows of (count, ...), unless it lies there already."""
        if not isinstance(self.rows, slice):
            to.index_copy_(0, self._index(to), part)
            return
        target = to[self.rows]
        if target.data_ptr() != part.data_ptr() or target.stride() != part.stride():
            target.copy_(part)

    def _index(self, tensor: Tensor) -> Tensor:
        assert isinstance(self.rows, Tensor)
        return self.rows if self.rows.device == tensor.device else self.rows.to(tensor.device)


class RowViews:
    """What is computed with in a managed weight's place where its rows have several views.

    Operations that know it (`zoo/weights/ops/rows.py`) compute the base's share once for all rows. Every other one asks
    for a dense weight, which there is none of: `NotByRow`.

    Attributes:
        groups: The groups whose adapters change this weight.
        count: The number of rows.
        flattened: Whether the rows of a matrix may be several to each row of the batch, and a first dimension of 1 may
            stand for all rows.
        shape: The weight's.
        layout: The weight's.
        bank: Copies of low-rank updates.
        plans: Where rows are put that are computed together, of all weights of the batch.
        stack: The groups' updates as `zoo.weights.ops.stacked` keeps them.
    """

    def __init__(
        self,
        managed: ManagedWeight,
        groups: Sequence[Group],
        count: int,
        flattened: bool,
        bank: Bank,
        plans: dict[Any, Any],
    ) -> None:
        self._managed = managed
        self.bank, self.plans = bank, plans
        self.stack: Any = None
        self.groups, self.count, self.flattened = tuple(groups), count, flattened
        self.shape: torch.Size = managed.shape
        self.layout: Layout = managed.layout

    @property
    def base(self) -> ManagedWeight:
        """The weight without any adapter, the same object each time."""
        return unchanged(self._managed)

    @property
    def training(self) -> bool:
        """Whether the weight's layer is in training mode."""
        return self._managed.training

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the layer sees."""
        return self.base.dtype

    @property
    def device(self) -> torch.device:
        """The device on which the base is used."""
        return self.base.device

    def dense(self, dtype: torch.dtype | None = None) -> Tensor:
        """Return a weight (1, ...) for each row, (count, ...), if rows are `flattened`, as it stands for all samples.

        Raises:
            NotByRow: there is no dense weight for all rows.
        """
        if not self.flattened or len(self.shape) < 2 or self.shape[0] != 1 or torch.is_grad_enabled() or self.training:
            raise NotByRow(f"an operation takes one dense weight of shape {tuple(self.shape)} for all rows")
        weight = self.base.dense(dtype).repeat(self.count, *[1] * (len(self.shape) - 1))
        for group in self.groups:
            group.write(group.view.dense(dtype).expand_as(group.of(weight)), weight)
        return weight

    def plain(self) -> None:
        """Return None: there is something to compute."""

    def is_dense(self) -> bool:
        """Return False: there is something to compute."""
        return False

    def active_updates(self) -> tuple[Update, ...]:
        """Return the updates that are active for any rows."""
        return tuple(update for group in self.groups for update in group.view.active_updates())

    def additive(self, group: Group) -> list[Factors] | None:
        """Return the low-rank updates that are all that a group's view adds to the base; None if it does more."""
        return None if group.view._replacing else group.view.factors()

    def check(self, operand: Any, dimensions: int) -> None:
        """Raise `NotByRow` unless an operand surely has the batch's rows.

        Args:
            operand: A tensor, (count, ...).
            dimensions: How many it has at least.
        """
        if torch.is_grad_enabled() or self.training:
            raise NotByRow("rows have weights of their own only without gradients and in evaluation mode")
        if type(operand) is not Tensor or operand.dim() < dimensions or operand.shape[0] != self.count:
            found = tuple(getattr(operand, "shape", ())) or type(operand).__name__
            raise NotByRow(f"expected an operand with a row for each of {self.count} samples, got {found}")


def rows_of(numbers: Sequence[int], device: torch.device) -> slice | Tensor:
    """Return ascending row numbers in the form that `Group` has."""
    if list(numbers) == list(range(numbers[0], numbers[0] + len(numbers))):
        return slice(numbers[0], numbers[0] + len(numbers))
    return torch.tensor(numbers, device=device)


def by_rows(
    managed: ManagedWeight,
    views: Sequence[ManagedWeight],
    rows: Sequence[slice | Tensor],
    count: int,
    flattened: bool,
    bank: Callable[[], Bank],
    plans: dict[Any, Any],
) -> ManagedWeight | RowViews:
    """Return what to compute with where each group of rows has its view of a weight: one view if they are all alike."""
    first = views[0]
    if all(_same(view, first) for view in views[1:]):
        return first
    pairs = zip(views, rows, strict=True)
    return RowViews(managed, [Group(*pair) for pair in pairs if changes(pair[0])], count, flattened, bank(), plans)


def changes(view: ManagedWeight) -> bool:
    """Return whether adapters that are active change a weight."""
    return bool(view._updates_in_use or view._replacing)


def unchanged(managed: ManagedWeight) -> ManagedWeight:
    """Return a weight without active adapters: itself if it has none, else the same view each time."""
    if not changes(managed):
        return managed
    base = _bases.get(managed)
    if base is None or base._parameters is not managed._parameters or base._modules is not managed._modules:
        base = _bases[managed] = managed.view(())
    return base


_bases: WeakKeyDictionary[ManagedWeight, ManagedWeight] = WeakKeyDictionary()


def _same(one: ManagedWeight, other: ManagedWeight) -> bool:
    return (one._updates_in_use, one._shares, one._replacing) == (
        other._updates_in_use,
        other._shares,
        other._replacing,
    )
