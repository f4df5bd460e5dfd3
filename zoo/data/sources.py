"""What a person has, whatever it is, as a table: `read_table`, and `read_source` where rows may pass by as a stream."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo.bounded.regular import kind_of
from zoo.data import archives, huggingface, objects, textfiles
from zoo.data.archives import is_archive
from zoo.data.files import read_file
from zoo.data.folders import read_folder
from zoo.data.spec import Data, as_data
from zoo.data.streams import Stream, gathered
from zoo.data.table import Table
from zoo.data.walk import is_junk
from zoo.errors import DataError

_LONGEST_PATH = 1000  # characters; a longer string is no path


def read_table(data: Any, *, kind: str = "any") -> Table:
    """Return what a user has as a table: one row for each example, columns under the names that they have there.

    Rows without names get them: `text`, `image`, `input_ids` or `values` for the example, then `label`, `column_2`, ….

    Args:
        data: a folder, a file (CSV, TSV, JSON, JSON lines, Parquet, Arrow, zip, tar, text, images, arrays), an object
            of `datasets`, a torch Dataset or DataLoader, a data frame, a dictionary of columns, a list of rows,
            tensors; or a `zoo.Data` around one.
        kind: what the model reads, "text" or "image": decides between the files of a folder and names rows without
            names; "any": by what is there.

    Raises:
        DataError: it is none of them, cannot be read, is empty, or is a stream of too many rows.
    """
    found = read_source(data, kind=kind)
    return gathered(found) if isinstance(found, Stream) else found


def read_source(data: Any, *, kind: str = "any") -> Table | Stream:
    """Return what a user has as a table, or as a stream if it can only be gone through; see `read_table`.

    Raises:
        DataError: as `read_table` does.
    """
    given = as_data(data)
    source = given.source
    found = _of_path(source, kind, given) if isinstance(source, str | Path) else _of_object(source, kind)
    if isinstance(found, Table) and not len(found):
        raise DataError(f"{found.origin}: holds nothing: give at least one example")
    return found


def _of_path(name: str | Path, kind: str, given: Data) -> Table:
    if isinstance(name, str) and ("\n" in name or len(name) > _LONGEST_PATH):
        return Table({"text": [name]}, "the text given")
    path = Path(name).expanduser()
    try:
        if path.is_dir():
            return read_folder(path, kind, given)
        if path.is_file():
            return _of_archive(path, kind, given) if is_archive(path) else read_file(path, kind, given)
        if path.exists():
            raise DataError(f"{path}: is {kind_of(path.stat().st_mode)}: expected a file or a folder")
    except (OSError, ValueError) as error:
        raise DataError(f"{name!r}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    raise DataError(f"{name}: expected a file or a folder, found nothing of that name: give its path")


def _of_archive(path: Path, kind: str, given: Data) -> Table:
    """Return an archive as a table: of arrays, as a webdataset, else as the folder that it holds."""
    arrays = archives.read_arrays(path) if zipfile.is_zipfile(path) else None
    if arrays is not None:
        return arrays
    folder = archives.unpacked(path)
    rows = archives.shard_rows(folder)
    if rows is not None:
        return textfiles.rows_table(rows, str(path))
    inside = [child for child in folder.iterdir() if not is_junk(child.name)]
    if len(inside) == 1 and inside[0].is_file():
        return replace(read_file(inside[0], kind, given), origin=str(path))
    while len(inside) == 1 and all(child.is_dir() for child in inside[0].iterdir()):
        [folder] = inside  # one folder around those of the classes
        inside = [child for child in folder.iterdir() if not is_junk(child.name)]
    try:
        return replace(read_folder(folder, kind, given), origin=str(path))
    except DataError as error:
        raise DataError(str(error).replace(str(folder), str(path))) from None


def _of_object(data: Any, kind: str) -> Table | Stream:
    if isinstance(data, Table | Stream):
        return data
    if huggingface.is_hugging_face(data):
        return huggingface.from_object(data)
    module = type(data).__module__.split(".")[0]
    if module == "pandas" and hasattr(data, "columns"):
        return objects.from_frame(data)
    if isinstance(data, Mapping):
        return objects.from_columns(data, kind)
    if module in ("torch", "numpy") and hasattr(data, "ndim"):
        if data.ndim == 0:
            raise DataError(f"expected a tensor of examples, got one of no dimension ({data})")
        return objects.from_tensor(data, kind)
    if isinstance(data, tuple) and len(data) == 2 and (hasattr(data[0], "ndim") or isinstance(data[0], list)):
        return objects.from_pair(data, kind)
    if isinstance(data, Sequence) and not isinstance(data, str | bytes):
        return objects.from_rows(data, kind)
    if hasattr(data, "collate_fn") and hasattr(data, "dataset"):
        return objects.from_loader(data, kind)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, bytes):
        return objects.from_torch(data, kind)
    if isinstance(data, Iterable) and not isinstance(data, bytes):
        from torch.utils.data import IterableDataset

        return (
            objects.from_torch(data, kind) if isinstance(data, IterableDataset) else objects.from_iterable(data, kind)
        )
    raise DataError(
        "expected a folder, a file, a dataset, a data frame, tensors, a list of rows or a dictionary of columns, got "
        f"{type(data).__name__}"
    )
