"""Other adapters for the calls of one thread, without a change of the managed weights that all threads share.

A choice gives for some managed weights a view: the same tensors with other adapters active, or a dense form of the
weight that is kept for a while. Whatever computes with a weight in the thread sees its view.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo.weights.kept_weight import KeptWeights
from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.row_bank import Bank, Room
from zoo.weights.row_views import RowViews, by_rows, changes, rows_of, unchanged

Views = Mapping[ManagedWeight, ManagedWeight]
Rows = Mapping[ManagedWeight, ManagedWeight | RowViews]


class Banks:
    """Copies of the low-rank updates of a module's weights, for batches of many different ones."""

    def __init__(self) -> None:
        self._room = Room()
        self._banks: dict[ManagedWeight, Bank] = {}

    def of(self, managed: ManagedWeight) -> Bank:
        """Return those of a weight."""
        if managed not in self._banks:
            self._banks[managed] = Bank(self._room)
        return self._banks[managed]


class _Choice(NamedTuple):
    """Views in force.

    Attributes:
        views: By the managed weight in whose place they are.
        backward: The backward pass in which alone they are in force; None for no such limit.
        outer: What was in force before that backward pass.
        dense: Dense forms that are kept of weights without a view.
    """

    views: Rows
    backward: int | None = None
    outer: Any = None
    dense: KeptWeights | None = None


CHOSEN: ContextVar[_Choice | None] = ContextVar("chosen", default=None)
# Dynamo of torch before 2.14 cannot trace a ContextVar. Compiled code needs none: its adapters are switched for a call.
TRACED = torch.__version__ >= (2, 14)  # type: ignore[operator]


def in_force(managed: Any, needs_dense: bool = True) -> Any:
    """Return what to compute with in a managed weight's place: its view, its dense form if that is kept, or itself.

    Args:
        managed: The managed weight, or a part of it.
        needs_dense: Whether the operation takes the whole dense weight, and not only rows of it.
    """
    if not TRACED and torch.compiler.is_compiling():
        return managed
    choice = CHOSEN.get()
    if choice is not None and choice.backward is not None:
        choice = _current()
    if choice is None:
        return managed
    views, _, _, dense = choice
    view = views.get(managed) if views else None
    if view is not None:
        if dense is None or type(view) is not ManagedWeight or view._replacing:
            return view
        base = unchanged(managed)
        return dense.under(view if changes(view) else base, base, needs_dense)
    return managed if dense is None or type(managed) is not ManagedWeight else dense.now(managed, needs_dense)


def view_in_force(weight: RowViews, view: ManagedWeight | None = None, needs_dense: bool = True) -> ManagedWeight:
    """Return what to compute with where rows have one of a weight's views: on the base's dense form if that is kept.

    Args:
        weight: The weight.
        view: The view; None for the weight without adapters.
        needs_dense: As in `in_force`.
    """
    choice, base = _current(), weight.base
    view = base if view is None else view
    if choice is None or choice.dense is None or type(base) is not ManagedWeight or view._replacing:
        return view
    return choice.dense.under(view, base, needs_dense)


def _current() -> _Choice | None:
    choice = CHOSEN.get()
    # A backward pass that ended with an error has left its choice behind.
    if choice is None or choice.backward is None or choice.backward == torch._C._current_graph_task_id():
        return choice
    return choice.outer


@contextmanager
def choosing(views: Rows) -> Iterator[None]:
    """Put views in force in the block, in its thread; those of a choice around it stay for other weights."""
    outer = _current()
    with keeping(_Choice(views) if outer is None else _Choice({**outer.views, **views}, dense=outer.dense)):
        yield


@contextmanager
def choosing_rows(groups: Sequence[tuple[Views, Sequence[int]]], *, flattened: bool = False) -> Iterator[None]:
    """Put views in force in the block, in its thread, that differ between the rows of a batch.

    Products, convolutions and look-ups whose operand has exactly as many rows as there are then compute the base's
    share once for all of them, and each group's low-rank updates on its rows. Anything else with a weight that differs
    raises `zoo.weights.row_views.NotByRow`; so does everything with gradients or in training mode. Catch it, and run
    each group by itself under `choosing`. Whether such an operand's rows are the batch's is the caller's to know: of
    every module that does nothing but batched layers they are.

    Args:
        groups: Views, each with its rows in ascending order. Together the rows are 0 to one less than their number. All
            views have the same weights.
        flattened: Whether operands of two dimensions may have several consecutive rows for each of the batch, as
            `x.view(-1, features)` makes them; and indices and dense weights whose first dimension is 1 may stand for
            all rows (positions), so that there is a result, or a weight, for each.
    """
    with choosing(row_views(groups, flattened=flattened)):
        yield


def row_views(
    groups: Sequence[tuple[Views, Sequence[int]]], *, flattened: bool = False, banks: Banks | None = None
) -> Rows:
    """Return what `choosing_rows` puts in force, for `choosing`: to be used again for as long as the rows are these.

    Args:
        groups: As in `choosing_rows`.
        flattened: As in `choosing_rows`.
        banks: Where updates are copied to, for other batches of the same views too.
    """
    count = sum(len(rows) for _, rows in groups)
    banks = Banks() if banks is None else banks
    plans: dict[Any, Any] = {}
    places: dict[torch.device, list[slice | Tensor]] = {}
    chosen = {}
    for managed in groups[0][0]:
        device = managed.device
        if device not in places:
            places[device] = [rows_of(rows, device) for _, rows in groups]
        views = [views[managed] for views, _ in groups]
        chosen[managed] = by_rows(managed, views, places[device], count, flattened, partial(banks.of, managed), plans)
    return chosen


@contextmanager
def keeping_dense(dense: KeptWeights) -> Iterator[None]:
    """Keep dense forms of weights that are used in the block, in its thread."""
    outer = _current()
    with keeping(_Choice({} if outer is None else outer.views, dense=dense)):
        yield


def kept() -> _Choice | None:
    """Return the choice in force, for `keeping`."""
    choice = _current()
    return None if choice is None else _Choice(choice.views)


@contextmanager
def keeping(choice: _Choice | None) -> Iterator[None]:
    """Put in force in the block what `kept` has returned elsewhere, in another thread too."""
    token = CHOSEN.set(choice)
    try:
        yield
    finally:
        CHOSEN.reset(token)


def choose_in_backward(views: Views | None) -> None:
    """Put views in force for what the rest of the running backward pass recomputes in this thread.

    Args:
        views: None for what was in force before the backward pass.
    """
    choice = CHOSEN.get()
    outer = choice.outer if choice is not None and choice.backward is not None else choice
    CHOSEN.set(outer if views is None else _Choice(views, torch._C._current_graph_task_id(), outer))
