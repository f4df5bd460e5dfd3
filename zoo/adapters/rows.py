"""Taking some samples out of a call's arguments, and putting the outputs of several calls together again.

Samples are rows: of every tensor, however deep it lies in lists, dicts, dataclasses and other objects, whose first
dimension has as many entries as there are samples.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zoo.errors import AdapterError

# What becomes of like leaves of several nests, and where they lie.
Leaf = Callable[[Sequence[Any], str], Any]


def take(tree: Any, rows: Tensor, count: int) -> tuple[Any, list[Tensor]]:
    """`tree` with only the samples `rows` (int64 [k]) of `count`, and the tensors that were cut for it.

    A tensor without `count` rows, and whatever is no tensor, stays as it is; what holds something that was cut is
    copied.
    """
    cut: list[Tensor] = []

    def one(values: Sequence[Any], _: str) -> Any:
        (value,) = values
        if not isinstance(value, Tensor) or value.dim() == 0 or value.shape[0] != count:
            return value
        cut.append(value.index_select(0, rows.to(value.device)))
        return cut[-1]

    return _walk([tree], "", one), cut


def tensors(tree: Any) -> dict[str, Tensor]:
    """Every tensor in a nest, by where it lies."""
    found: dict[str, Tensor] = {}

    def one(values: Sequence[Any], path: str) -> Any:
        (value,) = values
        if isinstance(value, Tensor):
            found[path] = value
        return value

    _walk([tree], "", one)
    return found


class Part(NamedTuple):
    """The output of a call for the samples `rows`."""

    output: Any
    rows: list[int]


def join(parts: Sequence[Part], larger: Callable[[], Any] | None) -> Any:
    """The output for all samples in their order.

    A tensor's rows are where the parts' shapes differ as their numbers of samples do: in its first dimension, or in
    another one (the states of an LSTM). larger: the first part's output for one sample more, asked for only where
    several dimensions could be meant because all parts are as large; None: rows are always in the first one. What is
    no tensor must be equal in all parts. Raises `AdapterError` that names what cannot be put together.
    """
    sizes = [len(part.rows) for part in parts]
    order = torch.tensor([row for part in parts for row in part.rows]).argsort()
    grown: dict[str, Tensor] = {}

    def dimension(values: Sequence[Tensor], path: str) -> int:
        shapes = [value.shape for value in values]
        able = [dim for dim in range(values[0].dim()) if _fits(shapes, sizes, dim)]
        if larger is None:
            able = [dim for dim in able if dim == 0]
        elif len(able) > 1:
            if not grown:
                grown.update(tensors(larger()))
            if path in grown:  # else the call with one more had another structure, and has told nothing
                pair, more = [shapes[0], grown[path].shape], [sizes[0], sizes[0] + 1]
                able = [dim for dim in able if _fits(pair, more, dim)]
        if not able:
            raise AdapterError(
                f"adapters=: {_called(path)} has no row for each sample: shapes {_listed(map(tuple, shapes))} for "
                f"{_listed(sizes)} samples. Call the model once for each adapter, or have it return what has (logits "
                "rather than a loss)"
            )
        return able[0]

    def one(values: Sequence[Any], path: str) -> Any:
        if all(isinstance(value, Tensor) for value in values):
            dim = dimension(values, path)
            return torch.cat(list(values), dim).index_select(dim, order.to(values[0].device))
        if not _equal(values):
            shown = _listed(dict.fromkeys(f"{value!r:.40}" for value in values))
            raise AdapterError(f"adapters=: {_called(path)} differs between the adapters' parts of the batch: {shown}")
        return values[0]

    return _walk([part.output for part in parts], "", one)


def _walk(values: Sequence[Any], path: str, leaf: Leaf, above: tuple[int, ...] = ()) -> Any:
    """One nest made of several like ones, leaf by leaf; the first of them itself where nothing differs from it."""
    first = values[0]
    if id(first) in above or (len(values) > 1 and all(value is first for value in values)):
        return first  # an object that holds itself, or one that all share
    inside = [_children(value) for value in values]
    if inside[0] is None:
        return leaf(values, path)
    kinds = {(type(value), None if held is None else tuple(held)) for value, held in zip(values, inside, strict=True)}
    if len(kinds) > 1:
        raise AdapterError(f"adapters=: {_called(path)} has another structure for every part of the batch")
    made = {
        key: _walk([other[key] for other in inside if other is not None], path + key, leaf, (*above, id(first)))
        for key in inside[0]
    }
    return first if all(made[key] is inside[0][key] for key in made) else _with(first, list(made.values()))


def _children(value: Any) -> dict[str, Any] | None:
    """What a value holds, by how one would write it; None for a leaf."""
    if isinstance(value, Mapping):
        return {f"[{key!r}]": child for key, child in value.items()}
    if isinstance(value, list | tuple) and not isinstance(value, torch.Size):
        named = getattr(value, "_fields", None)
        keys = [f"[{n}]" for n in range(len(value))] if named is None else [f".{name}" for name in named]
        return dict(zip(keys, value, strict=True))
    return {f".{name}": getattr(value, name) for name in _attributes(value)} or None


def _with(value: Any, children: list[Any]) -> Any:
    """A copy of a value that holds other things."""
    if isinstance(value, tuple):
        return type(value)(*children) if hasattr(value, "_fields") else type(value)(children)
    made = copy.copy(value)
    if isinstance(value, list):
        made[:] = children
    elif isinstance(value, Mapping):
        for key, child in zip(value, children, strict=True):
            made[key] = child
    else:
        for name, child in zip(_attributes(value), children, strict=True):
            object.__setattr__(made, name, child)  # past what a frozen dataclass forbids
    return made


def _attributes(value: Any) -> list[str]:
    """The names of an object's attributes, where it is one that just holds things."""
    if isinstance(value, Tensor | nn.Module | type) or callable(value):
        return []
    if is_dataclass(value):
        return [one.name for one in fields(value) if hasattr(value, one.name)]
    return list(getattr(value, "__dict__", ()))


def _fits(shapes: Sequence[torch.Size], sizes: Sequence[int], dim: int) -> bool:
    """Whether every shape has its own number of samples in `dim` and all else is equal."""
    first = shapes[0]
    if len({len(shape) for shape in shapes}) > 1:
        return False
    if any(shape[dim] != size for shape, size in zip(shapes, sizes, strict=True)):
        return False
    return all((*shape[:dim], *shape[dim + 1 :]) == (*first[:dim], *first[dim + 1 :]) for shape in shapes)


def _equal(values: Sequence[Any]) -> bool:
    try:
        return all(type(value) is type(values[0]) and bool(value == values[0]) for value in values)
    except (TypeError, ValueError, RuntimeError):
        return False


def _called(path: str) -> str:
    return f"the output{path}" if path else "the output"


def _listed(values: Any) -> str:
    return " and ".join(str(value) for value in list(values)[:3])
