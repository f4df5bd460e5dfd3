"""From a table to the images of one split: columns, broken ones, classes, splits, and the report of it all."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.data.columns import find_columns
from zoo.data.labelled import Labels, read_labels
from zoo.data.limits import OUTSIDE, other_folders
from zoo.data.objects import ItemColumn
from zoo.data.pictures import Checked, Refused, check, check_all, open_image
from zoo.data.pixels import as_batch, as_single, is_pil, is_signed, is_wide, scaled, span_of
from zoo.data.report import Report, key_of, record
from zoo.data.spec import ALL, Data, split_name
from zoo.data.splits import divide, rows_of
from zoo.data.table import Rows, Table
from zoo.errors import DataError, one_line

if TYPE_CHECKING:
    from torch import Tensor

SHOWN = "shown"  # the split of a model that only looks at what it is given
_READ = 10_000  # items of a torch Dataset that are read before training, to find equal and broken ones
_LOOKED_AT = 64  # items by which the range of a dataset's values is told


@dataclass(frozen=True)
class Images:
    """The images of one split, as `zoo.data.images.ImageItems` has them, with their captions and values."""

    images: Any
    labels: Tensor | None
    classes: tuple[str, ...]
    captions: list[str] | None
    values: list[Any] | None = None


def images_of(table: Table, given: Data, split: str, *, values: bool = False) -> Images:
    """Return the images of a split, and record what was taken and left.

    Args:
        table: what the source was read as.
        given: columns, classes, splits, and whether broken pictures are refused.
        split: by any name; "all", or `SHOWN`: what is for evaluation, if the source has splits of its own, else all.
        values: whether labels stay as the data have them, as they are no classes.

    Raises:
        DataError: there are no images, some are broken and are refused, or labels, classes or splits cannot be.
    """
    columns = find_columns(
        list(table.columns), ("image",), ("label", "caption"), given=given.columns, origin=table.origin
    )
    pictures = _located(table.columns[columns["image"]], given.source)
    known, notes = _known(pictures, table.origin)
    wrong = tuple((_name(table, columns, pictures, i), one.wrong) for i, one in enumerate(known) if one.wrong)
    if wrong and given.broken == "refuse":
        found = "; ".join(f"{name}: {why}" for name, why in wrong[:3])
        raise DataError(f'{table.origin}: {found}: mend them, or leave them out with zoo.Data(…, broken="skip")')
    labels = read_labels(table, columns["label"], given) if "label" in columns and not values else None
    if labels is None and given.classes is not None:
        raise DataError(
            f'{table.origin}: has no labels, and classes were asked for: give a column, columns={{"label": …}}'
        )
    kept = [i for i, one in enumerate(known) if not one.wrong and (labels is None or labels.used[i])]
    if not kept:
        why = f": {wrong[0][0]}: {wrong[0][1]}" if wrong else ""
        raise DataError(f"{table.origin}: holds no image that can be used{why}")
    names = None if labels is None else [labels.names()[i] for i in kept]
    part, keys = table.only(kept), [known[i].key for i in kept]
    parts, rule = divide(part, given, groups=keys, labels=names)
    rows = _rows(part, parts, split, given)
    served = tuple(name for name, held in parts.items() if held is rows) or tuple(parts)
    _report(
        part,
        columns,
        parts,
        rule,
        keys,
        names,
        served,
        (*wrong, *table.skipped),
        (*notes, *_said(labels), *table.notes),
    )
    chosen = [kept[i] for i in rows]
    captions = table.columns[columns["caption"]] if "caption" in columns else None
    return Images(
        _images(pictures, known, chosen),
        _labels(labels, kept, rows, table.origin),
        () if labels is None else labels.classes,
        None if captions is None else [str(captions[i]) for i in chosen],
        _values(table, columns["label"], chosen) if values and "label" in columns else None,
    )


def _rows(part: Table, parts: dict[str, list[int]], split: str, given: Data) -> list[int]:
    if given.split is None and (split == ALL or (split == SHOWN and not part.splits.keys() - {"train"})):
        return list(range(len(part)))
    return rows_of(parts, "test" if split == SHOWN else split, given, part.origin)


def _located(values: Sequence[Any], source: Any) -> Sequence[Any]:
    """Return the column of images, names of files as paths from where the table lies.

    A table that lies in a file names pictures below its folder, or below one in `ZOO_DATA_FOLDERS`: it may be a
    stranger's. Others are `Refused`. A program's own rows name any.
    """
    if hasattr(values, "dtype") or isinstance(values, ItemColumn) or not any(map(_named, values)):
        return values
    if not isinstance(source, str | Path):
        return [Path(one) if isinstance(one, str) else one for one in values]
    where = Path(source).expanduser()
    where = where if where.is_dir() else where.parent
    allowed = [where.resolve(), *other_folders()]
    return [_inside(where, name, allowed) if (name := _named(one)) else one for one in values]


def _named(value: Any) -> str | None:
    """Return the name of the file that a value stands for; None if it is another value."""
    if isinstance(value, Mapping):
        value = value.get("path") if value.get("bytes") is None else None
    return value if isinstance(value, str) and value else None


def _inside(where: Path, name: str, allowed: Sequence[Path]) -> Path | Refused:
    if "\0" in name:
        return Refused(name, "its name is none of a file")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", name):
        return Refused(name, "it is an address, and nothing is fetched")
    path = where / name
    folder = Path(os.path.normpath(path.absolute().parent))  # links below the folder are its owner's
    if any(folder.is_relative_to(one) or folder.resolve().is_relative_to(one) for one in allowed):
        return path
    return Refused(name, f"it lies outside of {where}: if it is yours, name its folder in {OUTSIDE}")


def _known(values: Sequence[Any], origin: str) -> tuple[list[Checked], tuple[str, ...]]:
    """Return what is known of every image."""
    if not isinstance(values, ItemColumn):
        known = check_all(values)
        several = sum(one.several for one in known)
        said = (f"{several} pictures have several frames, of which the first is used",) if several else ()
        return known, said
    if len(values) <= _READ and _item(values, 0) == _item(values, 0):
        return [_item(values, i) for i in range(len(values))], ()
    said = (f"{origin}: its items are read when they are needed, so equal or broken ones are not looked for",)
    return [Checked(key_of(str(i))) for i in range(len(values))], said


def _item(values: ItemColumn, index: int) -> Checked:
    try:
        return check(values[index])
    except Exception as error:  # whatever a user's dataset raises
        return Checked(b"", f"it cannot be read ({one_line(error, 80)})")


def _name(table: Table, columns: dict[str, str], values: Sequence[Any], index: int) -> str:
    if "file_name" in table.columns and columns["image"] != "file_name":
        return str(table.columns["file_name"][index])
    value = None if isinstance(values, ItemColumn) else values[index]
    if isinstance(value, dict):
        value = value.get("path")
    return value.name if isinstance(value, Path | Refused) else value if isinstance(value, str) else f"image {index}"


def _images(values: Any, known: Sequence[Checked], rows: Sequence[int]) -> Any:
    """Return the chosen images in the form that `ImageItems` promises."""
    import numpy as np
    import torch

    if isinstance(values, torch.Tensor | np.ndarray):
        return as_batch(values)[list(rows)]
    spans = _spans(known)
    whole = [i for i, one in enumerate(known) if not one.wrong]
    looked = [values[i] for i in whole[:: max(1, len(whole) // _LOOKED_AT)]] if isinstance(values, ItemColumn) else []
    first = looked[0] if looked else values[rows[0]]
    if isinstance(first, Path) and not spans:
        return [values[i] for i in rows]
    if isinstance(first, Path | dict | bytes):
        return Opened(values, rows, lambda one: _opened(one, spans))
    if looked:
        signed = is_signed([as_single(one) for one in looked if not is_pil(one)])
        return Opened(values, rows, lambda one: one if is_pil(one) else _checked_sign(one, signed))
    arrays = [i for i in whole if isinstance(values[i], torch.Tensor | np.ndarray | list)]
    signed = is_signed([as_single(values[i]) for i in arrays])  # of all splits
    chosen = [values[i] for i in rows]
    if arrays:
        return [scaled(as_single(one), signed)[0] for one in chosen]
    for one in chosen:
        if not is_pil(one):
            as_single(one)  # raises what it is not
    return chosen


class Opened(Rows):
    """Images of which each is opened, or made, when it is asked for."""

    def __init__(self, column: Sequence[Any], rows: Sequence[int], made: Callable[[Any], Any]) -> None:
        super().__init__(column, rows)
        self._made = made

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return [self._made(one) for one in found] if isinstance(index, slice) else self._made(found)


def _spans(known: Sequence[Checked]) -> dict[str, tuple[float, float]]:
    """Return the range of all 32-bit pictures of a kind, integers and floats each."""
    found: dict[str, list[tuple[float, float]]] = {}
    for one in known:
        if one.span is not None:
            found.setdefault(one.mode, []).append(one.span)
    return {mode: span_of(min(low for low, _ in some), max(high for _, high in some)) for mode, some in found.items()}


def _opened(source: Any, spans: dict[str, tuple[float, float]]) -> Any:
    image = open_image(source)
    return scaled(as_single(image, spans.get(image.mode)), False)[0] if is_wide(image) else image


def _checked_sign(image: Any, signed: bool) -> Tensor:
    group = as_single(image)
    if not signed and is_signed([group]):
        raise DataError("the dataset's floats seemed to lie in [0, 1], and one is negative: scale all of them alike")
    return scaled(group, signed)[0]


def _labels(labels: Labels | None, kept: Sequence[int], rows: Sequence[int], origin: str) -> Tensor | None:
    import torch

    if labels is None:
        return None
    numbers = [labels.numbers[i] for i in kept]  # of all splits
    missing = sum(number is None for number in numbers)
    if missing == len(numbers):
        return None
    if missing:
        raise DataError(
            f"{origin}: expected a label for all images or none, got {len(numbers) - missing} of {len(numbers)} "
            "(negative ones count as none): label the others too"
        )
    return torch.tensor([numbers[i] for i in rows], dtype=torch.int64)


def _values(table: Table, column: str, rows: Sequence[int]) -> list[Any]:
    """Return the labels of some rows as the data have them, by name where they are declared classes."""
    held, names = table.columns[column], table.classes.get(column)
    found = [held[i] for i in rows]
    return [names[one] if isinstance(one, int) and one >= 0 else one for one in found] if names else found


def _said(labels: Labels | None) -> tuple[str, ...]:
    return () if labels is None else labels.notes


def _report(
    part: Table,
    columns: dict[str, str],
    parts: dict[str, list[int]],
    rule: str,
    keys: list[bytes],
    names: list[str | None] | None,
    served: tuple[str, ...],
    skipped: tuple[tuple[str, str], ...],
    notes: tuple[str, ...],
) -> None:
    labels = names or [None] * len(keys)
    counts = Counter(label for label in labels if label is not None)
    unused = tuple(name for name in part.columns if name not in columns.values() and name != "file_name")
    plain = all(role == name for role, name in columns.items()) and not unused
    full = {split: [key_of(keys[i], labels[i] or "") for i in rows] for split, rows in parts.items()}
    declared = part.classes.get(columns.get("label", ""), ())
    order = [*(name for name in declared if name in counts), *(name for name in counts if name not in declared)]
    record(
        Report(
            part.origin,
            "images",
            {split: len(rows) for split, rows in parts.items()},
            rule,
            {} if plain else columns,
            unused,
            {name: counts[name] for name in (order if declared else sorted(order))},
            skipped,
            (*notes, *_shared(parts, keys), *_conflicts(keys, labels)),
            full,
            served,
        )
    )


def _shared(parts: dict[str, list[int]], keys: list[bytes]) -> list[str]:
    trained = {keys[i] for i in parts.get("train", ())}
    found = []
    for split, rows in parts.items():
        count = sum(keys[i] in trained for i in rows) if split != "train" else 0
        if count:
            found.append(f"{count} of {len(rows)} examples of {split} are in train too")
    return found


def _conflicts(keys: list[bytes], labels: Sequence[str | None]) -> list[str]:
    first: dict[bytes, str | None] = {}
    count = sum(first.setdefault(key, label) != label for key, label in zip(keys, labels, strict=True))
    return [f"{count} images equal others of another class"] if count else []


def asked_split(split: str, given: Data) -> str:
    """Return "train" or "test" for named data, which have these two.

    Raises:
        DataError: another is asked for.
    """
    wanted = given.split or ("test" if split == SHOWN else split)
    if wanted == ALL:
        raise DataError(f"{given.source}: has the splits train and test: ask for one of them, not for all")
    return "train" if split_name(wanted) == "train" else "test"
