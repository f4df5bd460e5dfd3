"""One pass of a module for a batch whose rows have adapters of their own, by callers that know their rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor

from zoo.adapters.adapter_set import AdapterSet
from zoo.adapters.fused_batch import distance, tolerance
from zoo.adapters.mixed_batch import Choice, OwnViews, Switch, grouped, switching
from zoo.methods.config import Adapter
from zoo.weights.choice import choosing
from zoo.weights.row_views import NotByRow

R = TypeVar("R")
CHECKED = 2  # passes of all rows that are checked


def _apart(
    switch: Switch, groups: Mapping[Choice, list[int]], passing: Callable[[list[int]], R]
) -> list[tuple[list[int], R]]:
    found = []
    for choice, rows in groups.items():
        with switch.chosen(choice):
            found.append((rows, passing(rows)))
    return found


class EachRow:
    """Runs passes without gradients in evaluation mode, in each of which every row has its own adapters.

    `model(..., adapters=[...])` finds out what the rows of inputs and outputs are; here the caller says what to do for
    some of the rows, so that it can have state, such as a cache, that no one else knows how to divide.

    Args:
        adapter_set: the module's adapters.
        value: what of a pass's result is compared, (rows, …), when the first passes of all rows are checked against
            separate ones.
    """

    def __init__(self, adapter_set: AdapterSet, value: Callable[[Any], Tensor]) -> None:
        self._set, self._value = adapter_set, value
        self._unchecked = CHECKED
        self._together = True  # until the module does something that cannot be done with all rows at once
        self._kept: tuple[dict[str, Adapter], OwnViews] | None = None  # views of these adapters: slow to make

    def run(self, adapters: Sequence[Any], passing: Callable[[list[int]], R]) -> list[tuple[list[int], R]]:
        """Return (rows, what `passing` returns for them): all rows in one, or else those of equal adapters in each.

        The base's share of products is computed once for all rows that are in one pass.

        Args:
            adapters: for each row, as `model(..., adapters=...)` takes them.
            passing: runs the module on rows, whose numbers it gets in ascending order. Operands of two dimensions may
                have several consecutive rows for each. It may be called again for the same rows: it must not use up
                what it reads.

        Raises:
            AdapterError: an adapter cannot be used.
            UnknownNameError: there is no adapter of a name.
        """
        groups = grouped(self._set, adapters)
        with self._set.turns:
            views = self._views()
            if views is not None:
                return self._passes(views, groups, passing)
        with switching(self._set) as switch:
            if isinstance(switch, OwnViews):
                self._kept = dict(self._set.configs), switch
            return self._passes(switch, groups, passing)

    def _views(self) -> OwnViews | None:
        """Return the kept views, if the adapters are those that they were made of."""
        if self._kept is not None:
            before, now = self._kept[0], self._set.configs
            if len(before) == len(now) and all(before.get(name) is config for name, config in now.items()):
                return self._kept[1]
            self._kept = None
        return None

    def _passes(
        self, switch: Switch, groups: Mapping[Choice, list[int]], passing: Callable[[list[int]], R]
    ) -> list[tuple[list[int], R]]:
        if not self._together or len(groups) == 1 or not isinstance(switch, OwnViews):
            return _apart(switch, groups, passing)
        everything = list(range(sum(map(len, groups.values()))))
        try:
            with choosing(switch.rows(groups)):
                found = passing(everything)
        except NotByRow:
            self._together = False
            return _apart(switch, groups, passing)
        if self._unchecked:
            self._unchecked -= 1
            apart = _apart(switch, groups, passing)
            limit = tolerance(self._set.dtype)
            for rows, part in apart:
                error = distance(self._value(found)[rows], self._value(part))
                if not bool((error <= limit).all()):  # nor where it is no number
                    self._together = False
                    return apart
        return [(everything, found)]
