"""A bound of what is built in a block: parameters, and memory for buffers and initial values, before it is taken.

A constructor allocates what its arguments ask for. Here every operation of torch in this thread is looked at before it
runs, its result's size is found out on `meta` where it could be large, and the block ends in an error instead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only

from zoo.errors import CheckpointError

_aten = torch.ops.aten
# Operations that allocate and write nothing: a page that is not written takes no memory.
_UNWRITTEN = {_aten.empty.memory_format, _aten.empty_strided.default, _aten.empty_like.default}
_SMALL = 1 << 20  # elements, of which nothing need be known


class OverBudgetError(CheckpointError):
    """A block has made more than it may."""


def is_over_budget(error: BaseException | None) -> bool:
    """Return whether an error, or one that it was raised for, says that a block has made more than it may."""
    while error is not None and not isinstance(error, OverBudgetError):
        error = error.__cause__ or error.__context__
    return error is not None


class Budget(TorchDispatchMode):
    """End a block with an error when it makes more than it may.

    Args:
        what: how the error begins.
        tensors: how many empty tensors, such as parameters, may be made.
        elements: how many elements all of these may have.
        written: how many bytes all tensors together may have that are made with values.

    Raises:
        OverBudgetError: it does.
    """

    def __init__(self, what: str, *, tensors: int, elements: int, written: int) -> None:
        super().__init__()
        self._what = what
        self._left = {"tensors": tensors, "elements": elements, "bytes": written}
        self._most = dict(self._left)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Count what an operation makes, then run it."""
        kwargs = kwargs or {}
        first = args[0] if args else None
        if isinstance(first, Tensor) and (first.is_meta or isinstance(first, FakeTensor)):
            return func(*args, **kwargs)
        if func in _UNWRITTEN:
            if str(kwargs.get("device")) != "meta":
                self._take("tensors", 1)
                self._take("elements", math.prod(first.shape if isinstance(first, Tensor) else args[0]))
            return func(*args, **kwargs)
        return func(*args, **kwargs) if func.is_view else self._watched(func, args, kwargs)

    def _watched(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run an operation that writes, once the bytes of its result have been counted."""
        given = [each for each in tree_iter((args, kwargs)) if isinstance(each, Tensor)]
        if str(kwargs.get("device")) == "meta" or any(each.is_meta or isinstance(each, FakeTensor) for each in given):
            return func(*args, **kwargs)
        numbers = [each for each in tree_iter((args, kwargs)) if type(each) in (int, float)]
        if _most(given, numbers) > _SMALL:
            self._count(_on_meta(func, args, kwargs), [])
            return func(*args, **kwargs)
        made = func(*args, **kwargs)
        self._count(made, given)
        return made

    def _count(self, made: Any, given: Sequence[Tensor]) -> None:
        """Count the bytes of what an operation has made, and was not given."""
        for each in tree_iter(made):
            if isinstance(each, Tensor) and not any(each is other for other in given):
                self._take("bytes", each.numel() * each.element_size())

    def _take(self, kind: str, count: int) -> None:
        self._left[kind] -= count
        if self._left[kind] < 0:
            raise OverBudgetError(
                f"{self._what}: its configuration makes more than {self._most[kind]} {kind}, and its weights are not "
                "those of such a model: mend its configuration, or get the files again"
            )


def _on_meta(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Return what an operation makes, on `meta`; None for what it writes in place, and where that depends on values."""
    elsewhere = {"device": "meta"} if "device" in kwargs else {}
    args, kwargs = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), (args, {**kwargs, **elsewhere}))
    given = [each for each in tree_iter((args, kwargs)) if isinstance(each, Tensor)]
    try:
        made = func(*args, **kwargs)
    except RuntimeError:  # it depends on values, and then makes no more than it is given, or fails where it runs too
        return None
    return [each for each in tree_iter(made) if not any(each is other for other in given)]


def _most(tensors: Sequence[Tensor], numbers: Sequence[float]) -> float:
    """Return a number of elements that an operation's result surely does not exceed."""
    sizes = [float(max(2, each.numel())) for each in tensors]
    sizes += [max(abs(each), 1 / abs(each)) for each in numbers if math.isfinite(each) and each]
    return math.prod(sizes)
