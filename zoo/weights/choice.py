"""Other adapters for the calls of one thread, without a change of the managed weights that all threads share.

A choice gives for some managed weights a view: the same tensors with other adapters active. Whatever computes with a
weight in the thread sees its view.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch

from zoo.weights.managed_weight import ManagedWeight

Views = Mapping[ManagedWeight, ManagedWeight]


class _Choice(NamedTuple):
    """Views in force.

    Attributes:
        views: By the managed weight in whose place they are.
        backward: The backward pass in which they are in force; None where `choosing` is.
    """

    views: Views
    backward: int | None


_chosen: ContextVar[_Choice | None] = ContextVar("chosen", default=None)


def in_force(managed: ManagedWeight) -> ManagedWeight:
    """Return what to compute with in a managed weight's place: its view, or itself."""
    choice = _chosen.get()
    return managed if choice is None else _view(choice, managed)


def _view(choice: _Choice, managed: ManagedWeight) -> ManagedWeight:
    # A backward pass that ended with an error has left its choice behind.
    if choice.backward is not None and choice.backward != torch._C._current_graph_task_id():
        return managed
    return choice.views.get(managed, managed)


@contextmanager
def choosing(views: Views) -> Iterator[None]:
    """Put views in force in the block, in its thread; those of another choice around it stay for other weights."""
    outer = _chosen.get()
    merged = views if outer is None else {**outer.views, **views}
    token = _chosen.set(_Choice(merged, None))
    try:
        yield
    finally:
        _chosen.reset(token)


def choose_in_backward(views: Views | None) -> None:
    """Put views in force for what the rest of the running backward pass recomputes in this thread; None for none."""
    _chosen.set(None if views is None else _Choice(views, torch._C._current_graph_task_id()))
