"""An operation with a weight that differs between rows: the base's share once, then each group's update on its rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from zoo.weights.choice import view_in_force
from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.row_views import Group, RowViews
from zoo.weights.update import Factors

Whole = Callable[[ManagedWeight, Tensor], Tensor]  # the operation with a view of the weight
Stacked = Callable[[Tensor, Tensor], Sequence[Group]]  # (y, x) → adds the share of some groups, returns the others
Add = Callable[[Tensor, Tensor, list[Factors]], Tensor]  # (y, x, factors) → y with the updates' share; y may be changed


def by_row(
    weight: RowViews,
    x: Tensor,
    dimensions: int,
    whole: Whole,
    add: Add,
    stacked: Stacked | None = None,
    needs_dense: bool = True,
) -> Tensor:
    """Return an operation's output for all rows.

    Args:
        weight: The weight.
        x: The operand, (count, ...).
        dimensions: How many dimensions the operand has at least, if its first has the rows.
        whole: Computes the operation with one view.
        add: Adds low-rank updates to the base's share. Groups whose updates are of another kind take `whole`.
        stacked: Adds the updates of several groups at once.
        needs_dense: Whether the operation takes the whole dense weight, and not only rows of it.

    Raises:
        NotByRow: the operand's first dimension is not that of the rows.
    """
    weight.check(x, dimensions)
    y = whole(view_in_force(weight, None, needs_dense), x)
    for group in weight.groups if stacked is None else stacked(y, x):
        factors = weight.additive(group)
        own = group.of(x)
        if factors is None:
            part = whole(view_in_force(weight, group.view, needs_dense), own)
        else:
            part = add(group.of(y), own, factors)
        group.write(part, y)
    return y
