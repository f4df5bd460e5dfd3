"""What the library `datasets` reads: its own objects, Parquet and Arrow, and text tables too large for memory.

Pictures stay encoded, as {"bytes": …, "path": …}, until a model needs them.
"""

from __future__ import annotations

import copy
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.data import tables
from zoo.data.spec import split_name
from zoo.data.streams import Stream
from zoo.data.table import Table
from zoo.errors import DataError, one_line

if TYPE_CHECKING:
    from datasets import Dataset, Features

_KEPT = 2**30  # bytes of files from which the copy that `datasets` makes is worth keeping in its own cache


def is_hugging_face(data: Any) -> bool:
    """Return whether an object is one of `datasets`, without importing the library."""
    return type(data).__module__.split(".")[0] == "datasets" and hasattr(data, "map")


def from_object(data: Any) -> Table | Stream:
    """Return a Dataset or a DatasetDict as a table, an iterable one as a stream.

    Raises:
        DataError: the splits of a DatasetDict do not fit together.
    """
    import datasets

    if isinstance(data, datasets.DatasetDict | datasets.Dataset):
        whole = isinstance(data, datasets.Dataset)
        with quiet():
            return _joined({"train": data} if whole else dict(data), f"the {type(data).__name__} given", whole=whole)
    if isinstance(data, datasets.IterableDatasetDict):
        parts, notes = named_splits(dict(data), "the IterableDatasetDict given")
    elif isinstance(data, datasets.IterableDataset):
        parts, notes = {"train": data}, []
    else:
        raise DataError(f"expected a Dataset of `datasets` or a dictionary of them, got {type(data).__name__}")
    plain = {name: _undecoded(part) for name, part in parts.items()}
    first = plain[next(iter(plain))]
    names = tuple(first.column_names or next(iter(first.take(1)), {}))
    rows: dict[str, Callable[[], Iterator[Mapping[str, Any]]]] = {name: part.__iter__ for name, part in plain.items()}
    return Stream(f"the {type(data).__name__} given", names, rows, _classes(first.features), tuple(notes))


def from_builder(kind: str, files: Sequence[Path] | Mapping[str, Sequence[Path]], origin: str) -> Table:
    """Return the table that `datasets` reads from local files.

    Args:
        kind: "parquet", "arrow", "json", …, as `datasets.load_dataset` takes it.
        files: the files, or split → its files.
        origin: what messages call them.

    Raises:
        DataError: the files cannot be read.
    """
    import datasets

    parts = files if isinstance(files, Mapping) else {"train": files}
    named = {split: [str(path) for path in paths] for split, paths in parts.items()}
    size = sum(Path(path).stat().st_size for paths in named.values() for path in paths)
    for path in (path for paths in parts.values() for path in paths):
        tables.check(Path(path), kind)
    try:
        with quiet():
            read = datasets.load_dataset(kind, data_files=named, cache_dir=None if size > _KEPT else _temporary())
    except Exception as error:  # of pyarrow, pandas or datasets, as the file has it
        cause = error.__cause__ or error
        raise DataError(f"{origin}: cannot be read as {kind} ({one_line(cause, 200)}): look at the file") from error
    return _joined(dict(read), origin, whole=not isinstance(files, Mapping))


def from_rows(rows: Callable[[], Iterator[dict[str, str]]], names: Sequence[str], origin: str) -> Table:
    """Return rows of text as a table that lies on a disk."""
    import datasets

    features = datasets.Features({name: datasets.Value("string") for name in names})
    try:
        with quiet():
            made = datasets.Dataset.from_generator(rows, features, cache_dir=_temporary())
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, DataError):
            cause = cause.__cause__
        raise cause or DataError(f"{origin}: cannot be read ({one_line(error, 200)})") from error
    return Table({name: made[name] for name in names}, origin)


def named_splits(parts: Mapping[str, Any], origin: str) -> tuple[dict[str, Any], list[str]]:
    """Return parts under the names "train", "validation", "test", and what to say about those of other names.

    Raises:
        DataError: none of several parts has the name of a split, or two have the same.
    """
    if len(parts) == 1:
        return {_known(next(iter(parts))) or "train": next(iter(parts.values()))}, []
    found: dict[str, Any] = {}
    others = []
    for name, part in parts.items():
        known = _known(name)
        if known is None:
            others.append(name)
        elif known in found:
            raise DataError(f"{origin}: {name!r} and another part are both the split {known!r}: leave one out")
        else:
            found[known] = part
    if not found:
        raise DataError(
            f"{origin}: its parts are {', '.join(parts)}, none of them a split (train, validation, test): give one part"
        )
    return found, [f"not used: {', '.join(others)}, which are no names of splits"] if others else []


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the progress bars of `datasets` off unless somebody sees them."""
    import datasets

    if sys.stderr.isatty() or datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()


@cache
def _kept_until_exit() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="zoo-data-", ignore_cleanup_errors=True)


def _temporary() -> str:
    return _kept_until_exit().name


def _known(name: str) -> str | None:
    try:
        return split_name(name)
    except DataError:
        return None


def _joined(parts: Mapping[str, Dataset], origin: str, *, whole: bool = False) -> Table:
    """Return datasets as one table, each a split; `whole`: the one there is has no split of its own."""
    import datasets

    found, notes = named_splits(parts, origin)
    plain = _same_classes({name: _undecoded(part) for name, part in found.items()})
    try:
        joined = datasets.concatenate_datasets(list(plain.values())) if len(plain) > 1 else next(iter(plain.values()))
    except ValueError as error:
        raise DataError(
            f"{origin}: its splits do not fit together ({one_line(error, 200)}): give one of them"
        ) from None
    splits, start = {}, 0
    for name, part in plain.items():
        splits[name] = range(start, start + len(part))
        start += len(part)
    columns = {name: joined[name] for name in joined.column_names}
    if not columns:
        raise DataError(f"{origin}: has no columns")
    return Table(columns, origin, _classes(joined.features), {} if whole else splits, notes=tuple(notes))


def _undecoded(part: Any) -> Any:
    """Return a dataset of Python's own values, pictures still encoded; one with a transform as it is."""
    import datasets

    if getattr(part, "format", None) and part.format["type"] == "custom":
        return part
    if isinstance(part, datasets.Dataset):
        part = part.with_format(None)
    for name, feature in (part.features or {}).items():
        plain = _plain(feature)
        if plain is not feature:
            part = part.cast_column(name, plain)
    return part


def _plain(feature: Any) -> Any:
    """Return a feature without what reads other files: pictures, sounds and films stay encoded, addresses too."""
    if getattr(feature, "decode", None) is True:
        return type(feature)(decode=False)
    if isinstance(feature, dict):
        inner = {name: _plain(one) for name, one in feature.items()}
        return inner if any(inner[name] is not one for name, one in feature.items()) else feature
    if isinstance(feature, list):
        inside = [_plain(one) for one in feature]
        return inside if any(a is not b for a, b in zip(inside, feature, strict=True)) else feature
    held = getattr(feature, "feature", None)
    plain = held if held is None else _plain(held)
    if plain is held:
        return feature
    made = copy.copy(feature)
    object.__setattr__(made, "feature", plain)
    return made


def _same_classes(parts: dict[str, Dataset]) -> dict[str, Dataset]:
    """Return datasets whose classes have the same numbers: where two lists of names differ, by name."""
    import datasets

    lists: dict[str, list[list[str]]] = {}
    for part in parts.values():
        for column, feature in part.features.items():
            if isinstance(feature, datasets.ClassLabel):
                lists.setdefault(column, []).append(list(feature.names))
    for column, names in lists.items():
        if all(other == names[0] for other in names):
            continue
        union = list(dict.fromkeys(name for one in names for name in one))
        for split, part in parts.items():
            own = part.features.get(column)
            if own is not None:
                numbers = [None if n is None or n < 0 else union.index(own.names[n]) for n in part[column]]
                part = part.remove_columns(column).add_column(column, numbers)
                parts[split] = part.cast_column(column, datasets.ClassLabel(names=union))
    return parts


def _classes(features: Features | None) -> dict[str, tuple[str, ...]]:
    import datasets

    found = {}
    for name, feature in (features or {}).items():
        inner = getattr(feature, "feature", feature)  # of a list
        if isinstance(inner, datasets.ClassLabel):
            found[name] = tuple(inner.names)
    return found
