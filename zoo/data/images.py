"""Images that a user brings, or drawn letters, as tensors that a model can take.

Shapes: n images of c channels, h × w pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.data import letters
from zoo.data.batches import Batches
from zoo.data.image_streams import stream_batches
from zoo.data.image_table import SHOWN, asked_split, images_of
from zoo.data.labelled import bound, read_labels
from zoo.data.pictures import open_image as open_image
from zoo.data.pixels import as_single, edges, fit, scaled
from zoo.data.pixels import with_channels as with_channels
from zoo.data.report import Report, key_of, record
from zoo.data.sources import read_source, read_table
from zoo.data.spec import ALL, Data, as_data, split_name
from zoo.data.stream import stream
from zoo.data.streams import Stream
from zoo.data.table import Table
from zoo.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.plugin.requests import BatchRequest

SUFFIXES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".bmp",
    ".gif",
    ".webp",
    ".tif",
    ".tiff",
)  # the usual ones; all: `pictures.endings`
LETTER_COUNTS = {"train": 7800, "test": 520}  # whole rounds of 26
_KEPT = 2**28  # bytes of images, as a model takes them, that are kept once they are opened


@dataclass(frozen=True)
class ImageItems:
    """Images as a user brought them, with their labels and the labels' names where the data have them.

    Attributes:
        images: a Tensor [n, c, h, w] float32 in [-1, 1], or a sequence whose items are such Tensors [c, h, w], PIL
            images, or Paths of files that are not opened yet; c is 1, 3 or 4.
        labels: int64 [n], or None.
        classes: the names of the labels in order (subfolders, letters), or () where the data do not say; of all splits.
        captions: the texts that describe the images, or None.
        values: the labels as the data have them, where `image_items` was asked for these.
    """

    images: Sequence[Any] | Tensor
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()
    captions: Sequence[str] | None = None
    values: Sequence[Any] | None = None

    def __len__(self) -> int:
        return len(self.images)


def image_items(
    data: Any, *, split: str, size: int = 32, own: str = "letters:sans", values: bool = False
) -> ImageItems:
    """Return the images of `data`, for a model with preprocessing of its own, and record what was taken and left.

    Nothing is scaled or cropped, and files stay closed: open one with `open_image`.

    Args:
        data: what `image_data` takes.
        split: "train", "validation" or "test"; "all"; or "shown", for a model that only looks at images: those for
            evaluation if the data have splits of their own, else all.
        size: of drawn letters, in pixels.
        own: the data that None means.
        values: whether labels are returned as the data have them (`values` instead of `labels`), as numbers, vectors or
            several classes for each image are.

    Raises:
        DataError: `data` is nothing of the kind, or the split is another.
    """
    if split not in (ALL, SHOWN):
        split_name(split)
    given = as_data(data, own)
    if isinstance(given.source, str) and given.source.startswith(letters.PREFIX):
        drawn = _drawn(given, split, size)
        if not values or drawn.labels is None:
            return drawn
        return replace(drawn, values=[drawn.classes[i] for i in drawn.labels.tolist()], labels=None)
    _check_exists(given.source)
    found = images_of(read_table(given, kind="image"), given, split, values=values)
    return ImageItems(found.images, found.labels, found.classes, found.captions, found.values)


def image_data(
    data: Any,
    *,
    size: int | tuple[int, int],
    channels: int,
    split: str,
    own: str = "letters:sans",
    classes: tuple[int, str] | None = None,
    names: Sequence[str] = (),
    limit: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Return images [n, channels, h, w] float32 in [-1, 1], and labels int64 [n] or None where there are none.

    `size` is h and w in pixels, or one number for both. `data` is one of:

    - None: `own`; `"letters:<style>"`: capitals drawn for the split, ink 1 on paper -1 (see `zoo.data.letters`);
    - a folder of images, flat or with one subfolder per class at any depth, with folders of splits (`train`, `val`,
      `test`, …) or without, or with a table that names its files;
    - a file: an image, an archive, a table (CSV, JSON lines, Parquet) with a column of images, `.npy` or `.npz`;
    - images as a tensor or array `[n, c, h, w]`, `[n, h, w, c]` or `[n, h, w]`, bytes or floats in [0, 1] or, if some
      are negative, in [-1, 1]; `(images, labels)`; a list of PIL images; a mapping with `images` and `labels`; a torch
      Dataset of images, of `(image, label)` or of such mappings; an object of `datasets`;
    - a `zoo.Data` around one of them.

    Data without splits of their own are divided by `zoo.data.splits.divide`. Images are scaled to cover a square and
    cropped to its middle; greyscale and colour convert into each other, transparency becomes white. What is returned
    is held in memory.

    Args:
        data: the images.
        size: h and w in pixels, or one number for both.
        channels: how many.
        split: as in `image_items`.
        own: the data that None means.
        classes: as in `image_batches`; None returns the labels as the data number them.
        names: as in `image_batches`.
        limit: how many images at most, from all of the split at equal distances.

    Raises:
        DataError: `data` is anything else, or the classes are none of the model's.
    """
    items = image_items(data, split=split, size=max(edges(size)), own=own)
    labels = items.labels if classes is None else _bound(items, classes, names, None)
    rows = range(len(items))
    if limit is not None and len(items) > limit:
        rows = range(len(items))[:: len(items) // limit][:limit]
        labels = None if labels is None else labels[list(rows)]
    return stacked(items.images, rows, size=size, channels=channels), labels


def image_batches(
    data: Any,
    request: BatchRequest,
    *,
    size: int | tuple[int, int],
    channels: int,
    own: str = "letters:sans",
    classes: tuple[int, str] | None = None,
    names: Sequence[str] = (),
    also: Mapping[str, int] | None = None,
    prepare: Callable[[Any], Tensor] | None = None,
    unlabelled: bool = False,
) -> Batches[dict[str, Tensor]]:
    """Return batches of "images" [n, channels, h, w] in [-1, 1] and, where the data have them, "labels" [n].

    Files stay closed until a batch needs them; small data are then kept in memory. Streams pass by.

    Args:
        data: what `image_data` takes; the letters of "letters:<style>:fresh" are drawn anew all the time in training.
        request: batch size, split and seed.
        size: h and w in pixels, or one number for both.
        channels: how many.
        own: the data that None means.
        classes: how many classes the model has, 0 for none, and what messages call the model: the data's classes
            become its own, by name where both have names (`zoo.data.classes.bind_classes`). None takes the labels as
            the data number them.
        names: the names of the model's classes, in order, where it has names.
        also: further names of its classes → number.
        prepare: images as `ImageItems` holds them → the "images" of a batch, for a model with preprocessing of its own.
        unlabelled: whether data without labels will do, for a model with classes.

    Raises:
        DataError: the data cannot be read or the classes do not fit; at the call and not at the first batch.
    """
    import torch

    given = as_data(data, own)
    if request.training and given.split is None and letters.is_fresh(given.source):
        every = torch.arange(len(letters.LETTERS))
        drawn = ImageItems(torch.empty(0), every, tuple(letters.LETTERS))
        place = None if classes is None else _bound(drawn, classes, names, also)
        labelled = classes is None or place is not None
        edge = max(edges(size))
        found = letters.fresh(given.source, request, size=edge, channels=channels, labelled=labelled)
        ready = prepare or _prepared(size, channels)
        return found.map(lambda row, _: _fresh(row, place, ready))
    source = None if isinstance(given.source, str) else read_source(given, kind="image")
    if isinstance(source, Stream):
        ready = prepare or _prepared(size, channels)
        return Batches(stream_batches(source, given, request, classes=classes, names=names, also=also, prepare=ready))
    items = image_items(given, split=request.split, size=max(edges(size)), own=own)
    unbound = classes is None or (unlabelled and items.labels is None)
    labels = items.labels if unbound or classes is None else _bound(items, classes, names, also)
    _check_channels(items.images, channels)
    kept: dict[int, Tensor] | None = {} if 4 * channels * math.prod(edges(size)) * len(items) <= _KEPT else None
    rows = stream({"index": torch.arange(len(items)), "labels": labels}, request)

    def batch(row: dict[str, Tensor], _: int) -> dict[str, Tensor]:
        index = row.pop("index")
        if prepare is not None:
            return {"images": prepare(chosen(items.images, index)), **row}
        return {"images": stacked(items.images, index.tolist(), size=size, channels=channels, kept=kept), **row}

    return rows.map(batch)


def stacked(
    images: Any,
    rows: Sequence[int],
    *,
    size: int | tuple[int, int],
    channels: int,
    kept: dict[int, Tensor] | None = None,
) -> Tensor:
    """Return some images, as `ImageItems` holds them, as [n, channels, h, w] in [-1, 1].

    Args:
        images: all that there are.
        rows: which of them.
        size: h and w in pixels, or one number for both.
        channels: how many.
        kept: those made before, to which this adds.
    """
    import torch

    if not len(rows):
        return torch.empty(0, channels, *edges(size))
    if isinstance(images, torch.Tensor):
        return fit(images[list(rows)], size, channels)
    found = []
    for row in rows:
        one = None if kept is None else kept.get(row)
        if one is None:
            one = fit(_unit(images[row]), size, channels)
            if kept is not None:
                kept[row] = one
        found.append(one)
    return torch.cat(found)


def _bound(
    items: ImageItems, classes: tuple[int, str], names: Sequence[str], also: Mapping[str, int] | None
) -> Tensor | None:
    count, model = classes
    labels, said = bound(items.labels, items.classes, count=count, model=model, names=names, also=also)
    if said:
        record(Report(model, "", notes=(said,)))
    return labels


def _fresh(row: dict[str, Tensor], place: Tensor | None, prepare: Callable[[Any], Tensor]) -> dict[str, Tensor]:
    if place is not None:
        row["labels"] = place[row["labels"]]
    return {**row, "images": prepare(row["images"])}


def _prepared(size: int | tuple[int, int], channels: int) -> Callable[[Any], Tensor]:
    return lambda images: stacked(images, range(len(images)), size=size, channels=channels)


def chosen(images: Any, index: Tensor) -> Any:
    """Return some images, as `ImageItems` holds them, by their numbers int64 [m]; files stay closed."""
    import torch

    return images[index] if isinstance(images, torch.Tensor) else [images[i] for i in index.tolist()]


def _drawn(given: Data, split: str, size: int) -> ImageItems:
    """Return drawn letters; their classes, if others are asked for."""
    import torch

    if given.columns:
        raise DataError(f"{given.source}: has no columns to choose from: leave columns out")
    wanted = asked_split(split, given)
    style, _ = letters.style_of(given.source)
    drawn, which = letters.kept(style, LETTER_COUNTS[wanted], size, wanted)
    images, names = drawn * 2 - 1, tuple(letters.LETTERS)
    notes: tuple[str, ...] = ()
    if given.classes is not None:
        table = Table({"label": which.tolist()}, given.source, {"label": names})
        labels = read_labels(table, "label", given)
        rows = [i for i, used in enumerate(labels.used) if used]
        images, names, notes = images[rows], labels.classes, labels.notes
        which = torch.tensor([labels.numbers[i] for i in rows])
    record(
        Report(
            given.source, "images", LETTER_COUNTS, "drawn for each", notes=notes, keys=_keys(style), served=(wanted,)
        )
    )
    return ImageItems(images, which, names)


@cache
def _keys(style: str) -> dict[str, list[bytes]]:
    return {
        split: [key_of(f"letters:{style}", split, str(i)) for i in range(count)]
        for split, count in LETTER_COUNTS.items()
    }


def _check_exists(source: Any) -> None:
    if isinstance(source, str | Path) and len(str(source)) < 1000 and not Path(source).expanduser().exists():
        names = [f"letters:{style}" for style in letters.STYLES]
        raise DataError(
            f"expected images as a folder, a file or one of {', '.join(names)}; there is no file or name "
            f"{str(source)!r}.{did_you_mean(str(source), names)}"
        )


def _check_channels(images: Any, channels: int) -> None:
    """Raise DataError where images in memory have channels that do not become the model's."""
    if hasattr(images, "shape"):
        images = images[:1]
    elif not isinstance(images, list):
        return
    for one in {image.shape[0]: image for image in images if hasattr(image, "shape")}.values():
        with_channels(one[None], channels)


def _unit(image: Any) -> Tensor:
    """Return one image as [1, c, h, w] in [-1, 1]."""
    import torch

    if isinstance(image, torch.Tensor):
        return image[None]
    return scaled(as_single(open_image(image) if isinstance(image, Path) else image), False)
