"""Folders of pictures: flat, by class at any depth below it, with folders of splits, with a table of captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.data.classes import in_order
from zoo.data.files import read_file
from zoo.data.pictures import is_picture, sort_out
from zoo.data.spec import Data
from zoo.data.table import Table
from zoo.data.walk import is_junk, split_of
from zoo.errors import DataError

_METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet", "captions.jsonl", "captions.csv")


def read_picture_folder(
    root: Path, files: Sequence[Path], hidden: Sequence[tuple[str, str]], given: Data
) -> Table | None:
    """Return the pictures of a folder with the class and the split that their folders say; None if it has none.

    Columns: `image` (paths), `file_name`, where all lie in folders `label`, and those of a metadata file.

    Args:
        root: the folder.
        files: all that lie below it.
        hidden: (name, reason) of what was passed over.
        given: whether broken pictures are left out or refused.

    Raises:
        DataError: no picture can be read, a metadata file does not fit, or one is broken and `given` refuses it.
    """
    tables = [path for path in files if path.name.lower() in _METADATA]
    candidates = [path for path in files if path not in tables and is_picture(path)]
    if not candidates:
        return None
    others = [
        (_name(root, path), "it is no picture") for path in files if path not in tables and path not in candidates
    ]
    places, outside = _places(root, candidates, bool(tables))
    named = [(path, _name(root, path)) for path in places]
    if not named:
        raise DataError(f"{root}: its pictures lie beside the folders of splits or classes: put them into one")
    whole, broken, notes = sort_out(named, str(root), given)
    columns: dict[str, Sequence[Any]] = {"image": whole, "file_name": [_name(root, path) for path in whole]}
    splits: dict[str, list[int]] = {}
    for i, path in enumerate(whole):
        splits.setdefault(places[path][0], []).append(i)
    labels = [places[path][1] for path in whole]
    classes: dict[str, tuple[str, ...]] = {}
    if tables:
        columns |= _captions(root, tables, whole)
    elif all(label is not None for label in labels):
        names = tuple(in_order({str(label) for label in labels}))
        number = {name: i for i, name in enumerate(names)}
        columns["label"], classes["label"] = [number[str(label)] for label in labels], names
        notes = (*notes, *_without(root, names, places.values()))
    return Table(
        columns,
        str(root),
        classes,
        {} if "" in splits else splits,
        skipped=(*broken, *outside, *others, *hidden),
        notes=notes,
    )


def _places(
    root: Path, paths: Sequence[Path], captioned: bool
) -> tuple[dict[Path, tuple[str, str | None]], list[tuple[str, str]]]:
    """Return path → (split, class), "" and None where its folders say none, and what lies outside of them, with why."""
    parts = {path: path.relative_to(root).parts[:-1] for path in paths}
    level = next((level for level in (0, 1) if _is_level_of_splits(list(parts.values()), level)), None)
    places: dict[Path, tuple[str, str | None]] = {}
    outside = []
    for path, inside in parts.items():
        split = ""
        if level is not None:
            found = split_of(inside[level]) if len(inside) > level else None
            if found is None:
                outside.append((_name(root, path), "it lies in no folder of a split"))
                continue
            split, inside = found, inside[:level] + inside[level + 1 :]
        places[path] = split, (inside[0] if inside and not captioned else None)
    if any(label is not None for _, label in places.values()):
        for path, (_, label) in list(places.items()):
            if label is None:
                del places[path]
                outside.append((_name(root, path), "it lies in no folder of a class"))
    if len({split for split, _ in places.values()}) == 1 and level is not None:
        [split] = {split for split, _ in places.values()}
        if split == "train":  # alone: nothing is held out yet
            places = {path: ("", label) for path, (_, label) in places.items()}
    return places, outside


def _is_level_of_splits(parts: list[tuple[str, ...]], level: int) -> bool:
    """Return whether the folders at a level are those of splits: for training and for evaluation, or one and no other.

    A folder `train` beside others that are none is a class of that name.
    """
    names = {inside[level] for inside in parts if len(inside) > level}
    found = {split_of(name) for name in names} - {None}
    if level == 0:
        return len(found) > 1 or (len(found) == 1 and len(names) == 1)
    return len(found) > 1 and all(split_of(name) for name in names) and all(len(inside) > 1 for inside in parts)


def _without(root: Path, names: Sequence[str], places: Any) -> list[str]:
    """Return what to say of folders beside the classes', without a picture that can be read."""
    above = [root]
    if any(split for split, _ in places):
        above = [child for child in root.iterdir() if child.is_dir() and split_of(child.name)] or [root]
    children = {child.name for folder in above for child in folder.iterdir() if child.is_dir()}
    empty = in_order(name for name in children if not is_junk(name) and name not in names and not split_of(name))
    return [f"without a picture that can be read: {', '.join(empty)}"] if empty else []


def _captions(root: Path, tables: Sequence[Path], paths: Sequence[Path]) -> Mapping[str, Sequence[Any]]:
    """Return the columns of metadata files, in the order of the pictures that their `file_name` names."""
    rows: dict[Path, dict[str, Any]] = {}
    names: dict[str, None] = {}
    for table in tables:
        read = read_file(table, "any")
        if "file_name" not in read.columns:
            raise DataError(f"{table}: expected a column file_name, found {', '.join(read.columns)}: add it")
        names |= dict.fromkeys(name for name in read.columns if name != "file_name")
        for i, name in enumerate(read.columns["file_name"]):
            rows[table.parent / str(name)] = {column: values[i] for column, values in read.columns.items()}
    missing = [_name(root, path) for path in paths if path not in rows]
    if missing:
        raise DataError(
            f"{root}: {len(missing)} of {len(paths)} pictures are not in {tables[0].name} ({', '.join(missing[:3])}): "
            "add a row for each, or remove them"
        )
    return {name: [rows[path].get(name) for path in paths] for name in names}


def _name(root: Path, path: Path) -> str:
    return str(path.relative_to(root))
