"""Folders: of tables (as `datasets.load_dataset` finds them), of pictures, of texts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo.data import textfiles
from zoo.data.archives import read_shards
from zoo.data.files import read_file
from zoo.data.picture_folders import read_picture_folder
from zoo.data.pictures import endings
from zoo.data.spec import Data
from zoo.data.table import Table
from zoo.data.textfolder import check_one_kind, read_text_folder
from zoo.data.walk import split_of, split_within, walk
from zoo.errors import DataError

TABLES = (*textfiles.DELIMITED, *textfiles.JSONS, ".parquet", ".arrow")
METADATA = "metadata"
_BESIDE = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json")


def read_folder(root: Path, kind: str, given: Data) -> Table:
    """Return a folder as a table: of its tables, of pictures by class folder, of texts by class folder.

    What the model reads decides where a folder holds several of these; else the tables count, then the pictures.

    Raises:
        DataError: it holds nothing that is read.
    """
    if (root / "dataset_dict.json").is_file() or ((root / "state.json").is_file() and any(root.glob("*.arrow"))):
        return _saved(root)
    files, hidden = walk(root)
    captioned = any(path.name.startswith(f"{METADATA}.") for path in files)
    pictured = sum(path.suffix.lower() in endings() for path in files) > sum(map(_is_table, files))
    if kind == "image" or (kind == "any" and (captioned or pictured)):
        found = read_picture_folder(root, files, hidden, given)
        if found is not None:
            return found
    tables = [path for path in files if _is_table(path)]
    archives = [path for path in files if re.fullmatch(r".*\.(tar|tar\.gz|tgz|zip)", path.name.lower())]
    if tables:
        if kind == "text":
            check_one_kind(root, files, tables)
        return _tables(root, tables, given)
    if archives and len(archives) == len(files):
        return read_shards(archives, str(root))
    if kind == "any":
        found = read_picture_folder(root, files, hidden, given)
        if found is not None:
            return found
    if kind != "image":
        found = read_text_folder(root, files, hidden, given)
        if found is not None:
            return found
    listed = ", ".join(str(path.relative_to(root)) for path in files[:3])
    wanted = {"image": "pictures", "text": "text files"}.get(kind, "pictures, text files")
    raise DataError(
        f"{root}: expected {wanted} or tables (.csv, .jsonl, .parquet), found "
        f"{f'{len(files)} other files ({listed})' if files else 'no files'}: add some, or give another folder"
    )


def _is_table(path: Path) -> bool:
    endings = path.suffixes[:-1] if path.suffix.lower() == ".gz" else path.suffixes
    return bool(endings) and endings[-1].lower() in TABLES and path.name not in _BESIDE


def _saved(root: Path) -> Table:
    import datasets

    from zoo.data.huggingface import from_object

    _, hidden = walk(root)
    odd = next((f"{name}: {why}" for name, why in hidden if not why.startswith("it is hidden")), None)
    if odd is not None:
        raise DataError(f"{root}: {odd}, which `datasets` would open: remove it")
    try:
        found = from_object(datasets.load_from_disk(str(root)))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{root}: is no data set that `datasets` saved ({error}): save it anew") from error
    assert isinstance(found, Table)  # load_from_disk returns nothing that is iterable
    return replace(found, origin=str(root))


def _tables(root: Path, paths: Sequence[Path], given: Data) -> Table:
    """Return the tables of a folder as one, in which each file is of the split that its name or folder says."""
    by_split: dict[str | None, list[Path]] = {}
    for path in paths:
        inside = [split_of(part) for part in path.relative_to(root).parts[:-1]]
        split = next((found for found in inside if found), None) or split_within(path.name.split(".")[0])
        by_split.setdefault(split, []).append(path)
    notes: list[str] = []
    if len(by_split) > 1 and None in by_split:
        others = ", ".join(path.name for path in by_split.pop(None))
        notes.append(f"not used: {others}, whose names speak of no split")
    kinds = {path.suffix.lower() for found in by_split.values() for path in found}
    if kinds in ({".parquet"}, {".arrow"}):
        from zoo.data.huggingface import from_builder

        parts = {split or "train": found for split, found in by_split.items()}
        read = from_builder(kinds.pop()[1:], parts, str(root))
        return replace(read, splits=read.splits if None not in by_split else {}, notes=(*notes, *read.notes))
    return replace(_stacked(root, by_split, given), notes=tuple(notes))


def _stacked(root: Path, by_split: dict[str | None, list[Path]], given: Data) -> Table:
    columns: dict[str, list[Any]] = {}
    splits: dict[str, list[int]] = {}
    count, first = 0, None
    for split, paths in by_split.items():
        for path in paths:
            read = read_file(path, "any", given)
            if first is not None and read.columns.keys() != columns.keys():
                raise DataError(
                    f"{root}: {path.name} has the columns {', '.join(read.columns)} and {first.name} "
                    f"{', '.join(columns)}: give one of the files"
                )
            first = first or path
            for name, values in read.columns.items():
                columns.setdefault(name, []).extend(values)
            splits.setdefault(split or "", []).extend(range(count, count + len(read)))
            count += len(read)
    return Table(columns, str(root), splits={} if "" in splits else splits)
