"""Rows in Python's objects: lists, dictionaries, data frames, tensors, torch's Datasets and DataLoaders."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from itertools import islice
from pathlib import Path
from typing import Any

from zoo.data.pixels import is_pil
from zoo.data.streams import GATHERED, Stream
from zoo.data.table import Table
from zoo.data.textfiles import rows_table
from zoo.errors import DataError


def from_columns(data: Mapping[str, Any], kind: str) -> Table:
    """Return a mapping of columns as a table, tensors as they are.

    Raises:
        DataError: a value is no sequence, or they have different lengths.
    """
    columns: dict[str, Sequence[Any]] = {}
    for name, values in data.items():
        if isinstance(values, str | bytes) or not hasattr(values, "__len__") or not hasattr(values, "__getitem__"):
            raise DataError(
                f"the columns given: expected a list of values for {name!r}, got {type(values).__name__}: "
                "give a dictionary of columns, or a list with a dictionary for each row"
            )
        columns[str(name)] = values
    return Table(columns, f"the {_unit(kind)} given")


def from_frame(data: Any) -> Table:
    """Return a pandas data frame as a table; categories are classes."""
    columns, classes = {}, {}
    for name in data.columns:
        column = data[name]
        if str(column.dtype) == "category":
            names = tuple(str(value) for value in column.cat.categories)
            codes = column.cat.codes.tolist()
            classes[str(name)], columns[str(name)] = names, [None if code < 0 else code for code in codes]
        else:
            columns[str(name)] = [None if missing else value for value, missing in _values(column)]
    return Table(columns, "the data frame given", classes)


def from_tensor(data: Any, kind: str) -> Table:
    """Return a tensor or an array [n, …] as a table of one column, named by what it can be."""
    return Table({_column_name(data, kind): data}, f"the {_unit(kind)} given")


def from_pair(data: tuple[Any, Any], kind: str) -> Table:
    """Return (examples, labels) as a table."""
    first, labels = data
    if not hasattr(labels, "__len__"):
        raise DataError(
            f"expected (examples, labels), got {type(labels).__name__} as labels: give one for each example"
        )
    name = _column_name(first if not isinstance(first, list) else first[0] if first else "", kind)
    return Table({name: first, "label": labels}, f"the {_unit(kind)} given")


def from_rows(data: Sequence[Any], kind: str, origin: str = "") -> Table:
    """Return a list of rows: mappings, tuples of an example and its label, or examples alone.

    Raises:
        DataError: there is none, or they are of different kinds.
    """
    origin = origin or f"the {len(data)} {_unit(kind)} given"
    if not len(data):
        raise DataError(f"{origin}: hold nothing: give at least one example")
    if _is_row(data[0]) and isinstance(data[0], list):  # [image, label]
        data = [tuple(row) if _is_row(row) else row for row in data]
    first = data[0]
    shape = _shape(first)
    for i, row in enumerate(data):
        if _shape(row) != shape:
            raise DataError(f"{origin}: item 0 is {_said(first)} and item {i} is {_said(row)}: give all of one kind")
    if isinstance(first, Mapping):
        return rows_table(data, origin)
    names = _names(first, kind)
    if isinstance(first, tuple):
        return Table({name: [row[i] for row in data] for i, name in enumerate(names)}, origin)
    return Table({names[0]: data}, origin)


def from_torch(data: Any, kind: str) -> Table | Stream:
    """Return a torch Dataset as a table whose items stay unread until they are needed, an iterable one as a stream."""
    from torch.utils.data import IterableDataset

    origin = f"the {type(data).__name__} given"
    if isinstance(data, IterableDataset) or not isinstance(data, Sized) or not hasattr(data, "__getitem__"):
        return _stream(lambda: iter(data), kind, origin, data)
    if not len(data):
        raise DataError(f"{origin}: holds nothing: give at least one example")
    names = _names(data[0], kind)
    columns: dict[str, Sequence[Any]] = {name: ItemColumn(data, name, i) for i, name in enumerate(names)}
    known = _targets(data)
    if known is not None and "label" in columns:
        columns["label"] = known
    return Table(columns, origin, _class_names(data))


def from_loader(data: Any, kind: str) -> Table | Stream:
    """Return the examples of a DataLoader: its dataset's, or, if it collates in its own way, those of its batches."""
    from torch.utils.data import default_collate

    if data.collate_fn is default_collate or data.batch_size is None:
        found = from_torch(data.dataset, kind)
        note = "the DataLoader's dataset is used; batches and order are made anew"
        if isinstance(found, Table):
            return Table(found.columns, found.origin, found.classes, found.splits, notes=(*found.notes, note))
        return Stream(found.origin, found.columns, found.passes, found.classes, (*found.notes, note))
    return _stream(lambda: _unbatched(data), kind, f"the {type(data).__name__} given", data.dataset)


def from_iterable(data: Iterable[Any], kind: str) -> Table | Stream:
    """Return the rows of an object that can only be gone through: a table of what can be once only.

    Raises:
        DataError: it can be gone through once, and is too long for a table.
    """
    if iter(data) is data:
        rows = list(islice(data, GATHERED + 1))
        if len(rows) > GATHERED:
            raise DataError(
                f"the {type(data).__name__} given: more than {GATHERED} examples that pass by only once: "
                "give a Dataset, or an object whose __iter__ begins anew"
            )
        return from_rows(rows, kind)
    return _stream(lambda: iter(data), kind, f"the {type(data).__name__} given", data)


class ItemColumn(Sequence[Any]):
    """A field of every item of a dataset; an item is made when it is asked for, and may be another each time."""

    def __init__(self, data: Any, name: str, place: int) -> None:
        self._data, self._name, self._place = data, name, place

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)  # not every dataset does
        item = self._data[index % len(self)]
        if isinstance(item, Mapping):
            return item[self._name]
        return item[self._place] if _is_row(item) else item


def _stream(begin: Callable[[], Iterator[Any]], kind: str, origin: str, classes: Any) -> Stream:
    first = next(begin(), None)
    if first is None:
        raise DataError(f"{origin}: holds nothing: give at least one example")
    names = _names(first, kind)

    def rows() -> Iterator[Mapping[str, Any]]:
        for item in begin():
            if isinstance(item, Mapping):
                yield item
            else:
                yield dict(zip(names, item if _is_row(item) else (item,), strict=True))

    return Stream(origin, names, {"train": rows}, _class_names(classes))


def _unbatched(loader: Iterable[Any]) -> Iterator[Any]:
    for batch in loader:
        if isinstance(batch, Mapping):
            size = len(next(iter(batch.values())))
            yield from ({name: values[i] for name, values in batch.items()} for i in range(size))
        elif isinstance(batch, tuple | list):
            yield from zip(*batch, strict=True)
        else:
            yield from batch


def _names(item: Any, kind: str) -> tuple[str, ...]:
    """Return the names of an item's fields: its own, or an example's, a label's and those of further places."""
    if isinstance(item, Mapping):
        return tuple(map(str, item))
    if item == ():
        raise DataError("expected examples, got an empty tuple: give (example, label)")
    if _is_row(item):
        further = (f"column_{i}" for i in range(2, len(item)))
        return (_column_name(item[0], kind), *(("label",) if len(item) > 1 else ()), *further)
    return (_column_name(item, kind),)


def _column_name(value: Any, kind: str) -> str:
    if kind == "image":
        return "image"
    if isinstance(value, str):
        return "text"
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        return "messages"
    if isinstance(value, list) or (hasattr(value, "dtype") and "int" in str(value.dtype) and kind == "text"):
        return "input_ids"
    if kind == "text":
        return "text"
    return "image" if is_pil(value) or getattr(value, "ndim", 0) > 2 or isinstance(value, Path) else "values"


def _is_row(item: Any) -> bool:
    """Return whether an item is fields by place, not a list of token ids or of messages."""
    return isinstance(item, tuple) or (
        isinstance(item, list) and len(item) > 0 and not isinstance(item[0], int | Mapping)
    )


def _shape(row: Any) -> Any:
    if isinstance(row, Mapping):
        return dict
    return (type(row), len(row)) if isinstance(row, tuple) else str if isinstance(row, str) else isinstance(row, list)


def _said(row: Any) -> str:
    if isinstance(row, Mapping):
        return "a dictionary"
    return f"a tuple of {len(row)}" if isinstance(row, tuple) else f"a {type(row).__name__}"


def _unit(kind: str) -> str:
    return {"image": "images", "text": "texts"}.get(kind, "examples")


def _values(column: Any) -> Iterator[tuple[Any, bool]]:
    for value, missing in zip(column.tolist(), column.isna().tolist(), strict=True):
        yield value, bool(missing)


def _base(data: Any) -> Any:
    """Return the dataset below torch's Subsets."""
    while hasattr(data, "dataset") and hasattr(data, "indices"):
        data = data.dataset
    return data


def _class_names(data: Any) -> dict[str, tuple[str, ...]]:
    names = getattr(_base(data), "classes", None)
    if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names):
        return {"label": tuple(names)}
    return {}


def _targets(data: Any) -> list[int] | None:
    """Return a dataset's labels where it has them beside its items, as those of torchvision do."""
    if hasattr(data, "dataset") and hasattr(data, "indices"):
        whole = _targets(data.dataset)
        return None if whole is None else [whole[int(i)] for i in data.indices]
    found = getattr(data, "targets", None)
    if found is None or getattr(data, "target_transform", None) is not None:
        return None
    found = found.tolist() if hasattr(found, "tolist") else found
    whole_numbers = isinstance(found, list) and len(found) == len(data) and all(isinstance(n, int) for n in found)
    return found if whole_numbers else None
