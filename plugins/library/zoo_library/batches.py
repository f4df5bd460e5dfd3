"""Batches of what a class's forward takes by name, and of pairs of texts for encoder-decoders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from zoo import DataError
from zoo.data.report import Report, key_of, record
from zoo.data.spec import ALL, Data, as_data
from zoo.data.splits import held_out
from zoo.data.stream import stream

from .text import encoded, reads_text

if TYPE_CHECKING:
    from zoo import BatchRequest, Model


def batches(model: Model, data: Any, request: BatchRequest) -> Iterable[dict[str, Any]]:
    """Return batches as the module's forward takes them by name.

    Args:
        model: the model.
        data: arguments of the forward by name: {"pixel_values": Tensor [n, …], "labels": Tensor [n]}, a list or Dataset
            of such rows without n, or a DataLoader, whose batches are used as they are; for a model of text in, text
            out also a list or Dataset of {"prompt", "completion"} or {"input", "target"}. A tenth of the rows is held
            out, except from a DataLoader.
        request: batch size, split and seed.

    Raises:
        DataError: the data are anything else.
    """
    from .forward import checked

    given = as_data(data)
    source = given.source
    if isinstance(source, DataLoader):
        return _loaded(model, source, endless=request.training)
    if source is None:
        raise DataError(
            f"{model.entry.name} has no data of its own: give a dict of tensors, a list of rows or a DataLoader"
        )
    columns = dict(source) if isinstance(source, Mapping) else _columns(source)
    if reads_text(model) and columns and all(_is_text(column) for column in columns.values()):
        tensors, report = encoded(model, columns, given)
    else:
        tensors, report = {name: _tensor(name, column) for name, column in columns.items()}, {}
        checked(model, {name: tensor[:1] for name, tensor in tensors.items()})
    lengths = {name: len(tensor) for name, tensor in tensors.items()}
    if len(set(lengths.values())) != 1:
        found = ", ".join(f"{name}: {length}" for name, length in lengths.items()) or "nothing"
        raise DataError(f"expected as many rows of each, got {found}")
    chosen = _split(tensors, given, request.split, report)
    return stream({name: tensor[chosen] for name, tensor in tensors.items()}, request)


def _columns(source: Any) -> dict[str, list[Any]]:
    """Return name → the values of all rows."""
    if not hasattr(source, "__len__") or not hasattr(source, "__getitem__") or isinstance(source, str):
        raise DataError(
            "expected arguments of the model's forward by name, a dict of tensors, a list or Dataset of dicts, or a "
            f"DataLoader, got {type(source).__name__}"
        )
    rows = [source[index] for index in range(len(source))]
    if not rows or not all(isinstance(row, Mapping) for row in rows):
        kinds = ", ".join(sorted({type(row).__name__ for row in rows})) or "none"
        raise DataError(f"expected rows as dicts, arguments of the model's forward by name, got {kinds}")
    names = list(rows[0])
    for index, row in enumerate(rows):
        if set(row) != set(names):
            raise DataError(f"row {index} has {', '.join(map(str, row))}, and row 0 has {', '.join(map(str, names))}")
    return {str(name): [row[name] for row in rows] for name in names}


def _is_text(column: Any) -> bool:
    return isinstance(column, Sequence) and all(isinstance(value, str) for value in column)


def _tensor(name: str, column: Any) -> Tensor:
    if isinstance(column, Tensor):
        return column
    try:
        return torch.stack([torch.as_tensor(value) for value in column])
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"expected {name!r} as tensors of one shape, a row each, or numbers: {error}") from error


def _split(tensors: dict[str, Tensor], given: Data, split: str, facts: dict[str, Any]) -> Tensor:
    """Return the numbers of the rows of a split, int64 [n]."""
    count = len(next(iter(tensors.values())))
    columns = [tensor.cpu().contiguous() for tensor in tensors.values()]
    keys = [key_of(*(_raw(column[row]) for column in columns)) for row in range(count)]
    out = held_out(keys, share=given.hold_out, seed=given.seed)
    rows = {
        "train": [row for row in range(count) if not out[row]],
        "test": [row for row in range(count) if out[row]],
    }
    record(
        Report(
            "rows",
            "rows",
            splits={name: len(part) for name, part in rows.items()},
            rule=f"{given.hold_out:.0%} held out, equal rows together",
            keys={name: [keys[row] for row in part] for name, part in rows.items()},
            **facts,
        )
    )
    wanted = given.split or split
    if wanted == ALL:
        return torch.arange(count)
    chosen = rows["train" if wanted == "train" else "test"]
    if not chosen:
        raise DataError(f"expected rows for the split {wanted!r}, and of {count} none is: give more rows, or hold_out=")
    return torch.tensor(chosen)


def _raw(row: Tensor) -> bytes:
    return f"{row.dtype} {tuple(row.shape)}".encode() + row.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def _loaded(model: Model, loader: DataLoader[Any], *, endless: bool) -> Iterator[dict[str, Any]]:
    """Yield a DataLoader's batches."""
    from .forward import checked

    empty = True
    while empty or endless:
        for batch in loader:
            if empty:
                checked(model, batch)
            empty = False
            yield batch
        if empty:
            raise DataError("expected batches from the DataLoader, and it has none")
