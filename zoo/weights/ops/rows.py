"""An operation with a weight that differs between rows: the base's share once, then each group's update on its rows."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.row_views import RowViews
from zoo.weights.update import Factors

Whole = Callable[[ManagedWeight, Tensor], Tensor]  # the operation with a view of the weight
Add = Callable[[Tensor, Tensor, list[Factors]], Tensor]  # (y, x, factors) → y with the updates' share; y may be changed


def by_row(weight: RowViews, x: Tensor, dimensions: int, whole: Whole, add: Add) -> Tensor:
    """Return an operation's output for all rows.

    Args:
        weight: The weight.
        x: The operand, (count, ...).
        dimensions: How many dimensions the operand has at least, if its first has the rows.
        whole: Computes the operation with one view.
        add: Adds low-rank updates to the base's share. Groups whose updates are of another kind take `whole`.

    Raises:
        NotByRow: the operand's first dimension is not that of the rows.
    """
    weight.check(x, dimensions)
    found = [(group, weight.additive(group)) for group in weight.groups]
    y = whole(weight.base, x)
    for group, factors in found:
        own = group.of(x)
        part = whole(group.view, own) if factors is None else add(group.of(y), own, factors)
        group.write(part, y)
    return y
