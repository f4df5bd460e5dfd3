"""Batches of what a class's forward takes by name, and of pairs of texts for encoder-decoders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from zoo import DataError
from zoo.data.report import Report, key_of, record
from zoo.data.sources import read_table
from zoo.data.spec import as_data
from zoo.data.splits import divide, rows_of
from zoo.data.stream import stream

from .text import encoded, reads_text

if TYPE_CHECKING:
    from zoo import BatchRequest, Model


def batches(model: Model, data: Any, request: BatchRequest) -> Iterable[dict[str, Any]]:
    """Return batches as the module's forward takes them by name.

    Args:
        model: the model.
        data: what `zoo.data.sources.read_table` reads, with columns that are arguments of the forward, such as
            {"pixel_values": Tensor [n, …], "labels": Tensor [n]} or a list of such rows; or a DataLoader, whose batches
            are used as they are. Of a model of text in, text out also texts: columns of prompts and completions.
        request: batch size, split and seed.

    Raises:
        DataError: the data are anything else.
    """
    from .forward import check_loss, checked

    check_loss(model)
    given = as_data(data)
    if isinstance(given.source, DataLoader):
        return _loaded(model, given.source, endless=request.training)
    if given.source is None:
        raise DataError(
            f"{model.entry.name} has no data of its own: give a dict of tensors, a list of rows or a DataLoader"
        )
    table = read_table(given)
    facts: dict[str, Any] = {}
    if reads_text(model) and any(_is_text(column) for column in table.columns.values()):
        tensors, facts = encoded(model, table.columns, given)
    else:
        tensors = {name: _tensor(name, column) for name, column in table.columns.items()}
        checked(model, {name: tensor[:1] for name, tensor in tensors.items()})
    keys = [key_of(*(_raw(tensor[row]) for tensor in tensors.values())) for row in range(len(table))]
    parts, rule = divide(table, given, groups=keys)
    record(
        Report(
            table.origin,
            "rows",
            splits={name: len(part) for name, part in parts.items()},
            rule=rule,
            skipped=table.skipped,
            keys={name: [keys[row] for row in part] for name, part in parts.items()},
            served=(given.split or request.split,),
            **{**facts, "notes": (*table.notes, *facts.get("notes", ()))},
        )
    )
    chosen = torch.tensor(rows_of(parts, request.split, given, table.origin))
    return stream({name: tensor[chosen] for name, tensor in tensors.items()}, request)


def _is_text(column: Sequence[Any]) -> bool:
    return not isinstance(column, Tensor) and len(column) > 0 and isinstance(column[0], str)


def _tensor(name: str, column: Any) -> Tensor:
    if isinstance(column, Tensor):
        return column
    try:
        return torch.stack([torch.as_tensor(value) for value in column])
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"expected {name!r} as tensors of one shape, a row each, or numbers: {error}") from error


def _raw(row: Tensor) -> bytes:
    values = row.detach().cpu().contiguous()
    return f"{row.dtype} {tuple(row.shape)}".encode() + values.reshape(-1).view(torch.uint8).numpy().tobytes()


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
