"""Select samples from a call's arguments, and join the outputs of several calls.

Samples are rows: of every tensor whose first dimension has one entry per sample, at any depth in lists, dicts,
dataclasses and other objects. Below, n is the number of samples in the batch and k the number of those selected.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zoo.errors import AdapterError

# Maps the leaves at one place in several nests, and their path, to the new leaf.
Leaf = Callable[[Sequence[Any], str], Any]


def take(tree: Any, rows: Tensor, count: int) -> tuple[Any, list[Tensor]]:
    """Select samples from a nest.

    Args:
        tree: The nest.
        rows: The samples to select, int64 (k,).
        count: n.

    Returns:
        The nest, and the tensors that were cut for it, (n, ...) → (k, ...). Tensors without n rows, and anything else,
        stay as they are; objects that contain a cut tensor are copied.
    """
    cut: list[Tensor] = []

    def select(values: Sequence[Any], _: str) -> Any:
        (value,) = values
        if not isinstance(value, Tensor) or value.dim() == 0 or value.shape[0] != count:
            return value
        cut.append(value.index_select(0, rows.to(value.device)))  # (k, ...)
        return cut[-1]

    return _map_leaves([tree], "", select), cut


def tensors(tree: Any) -> dict[str, Tensor]:
    """Return every tensor in a nest, by its path."""
    by_path: dict[str, Tensor] = {}

    def collect(values: Sequence[Any], path: str) -> Any:
        (value,) = values
        if isinstance(value, Tensor):
            by_path[path] = value
        return value

    _map_leaves([tree], "", collect)
    return by_path


class Part(NamedTuple):
    """The output of a call for some samples.

    Attributes:
        output: The output.
        rows: The samples.
    """

    output: Any
    rows: list[int]


def join(parts: Sequence[Part], with_one_more: Callable[[], Any] | None) -> Any:
    """Return the output for all samples, in their order.

    A tensor's batch dimension is the one in which the parts' shapes differ as their numbers of samples do: the first,
    or another one (the states of an LSTM). Anything but a tensor must be equal in all parts.

    Args:
        parts: The outputs to join.
        with_one_more: Returns the first part's output for one sample more. It is called only if all parts have the same
            size, so that several dimensions could be the batch's. None: the batch dimension is always the first.

    Raises:
        AdapterError: the outputs cannot be joined; the message says which tensor or value.
    """
    sizes = [len(part.rows) for part in parts]
    order = torch.tensor([row for part in parts for row in part.rows]).argsort()
    one_more: dict[str, Tensor] = {}

    def dimension(values: Sequence[Tensor], path: str) -> int:
        shapes = [value.shape for value in values]
        candidates = [dim for dim in range(values[0].dim()) if _is_batch_dimension(shapes, sizes, dim)]
        if with_one_more is None:
            candidates = [dim for dim in candidates if dim == 0]
        elif len(candidates) > 1:
            if not one_more:
                one_more.update(tensors(with_one_more()))
            if path in one_more:  # else that output has another structure, and says nothing about this tensor
                pair, pair_sizes = [shapes[0], one_more[path].shape], [sizes[0], sizes[0] + 1]
                candidates = [dim for dim in candidates if _is_batch_dimension(pair, pair_sizes, dim)]
        if not candidates:
            raise AdapterError(
                f"adapters=: {_label(path)} has no row for each sample: shapes {_and(map(tuple, shapes))} for "
                f"{_and(sizes)} samples: call the model once for each adapter, or return one row per sample (logits "
                "rather than a loss)"
            )
        return candidates[0]

    def join_leaf(values: Sequence[Any], path: str) -> Any:
        if all(isinstance(value, Tensor) for value in values):
            dim = dimension(values, path)
            return torch.cat(list(values), dim).index_select(dim, order.to(values[0].device))
        if not _equal(values):
            shown = _and(dict.fromkeys(f"{value!r:.40}" for value in values))
            raise AdapterError(f"adapters=: {_label(path)} differs between the adapters' parts of the batch: {shown}")
        return values[0]

    return _map_leaves([part.output for part in parts], "", join_leaf)


def _map_leaves(values: Sequence[Any], path: str, leaf: Leaf, above: tuple[int, ...] = ()) -> Any:
    """Map several nests of the same structure to one, leaf by leaf.

    The first nest itself is returned if no leaf differs from its own.
    """
    first = values[0]
    if id(first) in above or (len(values) > 1 and all(value is first for value in values)):
        return first  # an object that contains itself, or one that all nests share
    children = [_children(value) for value in values]
    if children[0] is None:
        return leaf(values, path)
    structures = {
        (type(value), None if own is None else tuple(own)) for value, own in zip(values, children, strict=True)
    }
    if len(structures) > 1:
        raise AdapterError(f"adapters=: {_label(path)} has another structure for every part of the batch")
    mapped = {
        key: _map_leaves([own[key] for own in children if own is not None], path + key, leaf, (*above, id(first)))
        for key in children[0]
    }
    if all(mapped[key] is children[0][key] for key in mapped):
        return first
    return _with_children(first, list(mapped.values()))


def _children(value: Any) -> dict[str, Any] | None:
    """Return a value's children, by how one would write the access to them; None for a leaf."""
    if isinstance(value, Mapping):
        return {f"[{key!r}]": child for key, child in value.items()}
    if isinstance(value, list | tuple) and not isinstance(value, torch.Size):
        named = getattr(value, "_fields", None)
        keys = [f"[{n}]" for n in range(len(value))] if named is None else [f".{name}" for name in named]
        return dict(zip(keys, value, strict=True))
    return {f".{name}": getattr(value, name) for name in _attributes(value)} or None


def _with_children(value: Any, children: list[Any]) -> Any:
    """Return a copy of a value with other children."""
    if isinstance(value, tuple):
        return type(value)(*children) if hasattr(value, "_fields") else type(value)(children)
    result = copy.copy(value)
    if isinstance(value, list):
        result[:] = children
    elif isinstance(value, Mapping):
        for key, child in zip(value, children, strict=True):
            result[key] = child
    else:
        for name, child in zip(_attributes(value), children, strict=True):
            object.__setattr__(result, name, child)  # works for frozen dataclasses too
    return result


def _attributes(value: Any) -> list[str]:
    """Return the names of an object's attributes, if it is a plain container."""
    if isinstance(value, Tensor | nn.Module | type) or callable(value):
        return []
    if is_dataclass(value):
        return [one.name for one in fields(value) if hasattr(value, one.name)]
    return list(getattr(value, "__dict__", ()))


def _is_batch_dimension(shapes: Sequence[torch.Size], sizes: Sequence[int], dim: int) -> bool:
    """Return whether every shape has its own number of samples in `dim`, and all else is equal."""
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


def _label(path: str) -> str:
    return f"the output{path}" if path else "the output"


def _and(values: Any) -> str:
    return " and ".join(str(value) for value in list(values)[:3])
