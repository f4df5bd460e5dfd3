"""Watch which weights a module uses, in which order, and end a run when the wanted ones have been used."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from zoo.weights.walk import TiedGroup

# Recurrences, which one kernel may compute at once; without it, torch computes them by products.
RECURRENT = {torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu}


class FinishedEarly(BaseException):
    """Ends a run of a module: all that is wanted has been seen. Not an `Exception`, which modules may catch."""


class Watch(TorchFunctionMode):
    """Notes which weights a module uses, plain or managed.

    Attributes:
        order: The names of the weights in the order of their first use in any run.
        counts: How often each was used in the run that is going on, or was the last.
        reached: Whether this run has used one of the wanted weights.
    """

    def __init__(self) -> None:
        super().__init__()
        self.order: dict[str, None] = {}
        self.counts: Counter[str] = Counter()
        self.reached = False
        self._names: dict[int, str] = {}
        self._wanted: frozenset[str] | None = None
        self._missing: Counter[str] = Counter()

    def start(self, groups: Sequence[TiedGroup], wanted: Mapping[str, int] | None = None) -> None:
        """Begin a run.

        Args:
            groups: the weights, as they are in the module now.
            wanted: name → how often a weight is used; the run ends at the next use of another one afterwards. None for
                a whole run.
        """
        self._names = {id(group.value): group.name for group in groups}
        self.counts, self.reached = Counter(), False
        self._wanted = None if wanted is None else frozenset(wanted)
        self._missing = +Counter(wanted or {})

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        used = dict.fromkeys(self._used((*args, *kwargs.values())))
        if used and self._wanted is not None and not self._missing and self._wanted.isdisjoint(used):
            raise FinishedEarly
        self.reached = self.reached or (self._wanted is not None and not self._wanted.isdisjoint(used))
        if func in RECURRENT:
            with _by_products():
                out = func(*args, **kwargs)
        else:
            out = func(*args, **kwargs)
        if used and any(isinstance(one, Tensor) for one in (out if isinstance(out, tuple | list) else (out,))):
            self.order.update({name: None for name in used if name not in self.order})
            self.counts.update(used.keys())
            self._missing -= Counter(used.keys())
        return out

    def _used(self, values: Any) -> Iterator[str]:
        for value in values:
            if isinstance(value, list | tuple):
                yield from self._used(value)
                continue
            store = getattr(value, "_zoo_store", value)  # of a lazy weight
            name = self._names.get(id(getattr(store, "_whole", store)))
            if name is not None:
                yield name


@contextmanager
def _by_products() -> Iterator[None]:
    """Let torch compute a recurrence by products of its weights, which can be observed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about settings of other devices
        with torch.backends.mkldnn.flags(enabled=False), torch.backends.cudnn.flags(enabled=False):
            yield
