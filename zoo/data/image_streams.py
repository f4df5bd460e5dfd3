"""Batches of images that pass by: of iterable datasets, which are neither indexed nor held in memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zoo.data.classes import bind_classes
from zoo.data.columns import find_columns
from zoo.data.labels import check_labels
from zoo.data.pictures import check, open_image
from zoo.data.pixels import as_single, is_pil, is_signed, scaled
from zoo.data.report import Report, record
from zoo.data.spec import ALL, Data, split_name
from zoo.data.streams import Row, Stream
from zoo.errors import DataError, printable

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.plugin.requests import BatchRequest


def stream_batches(
    stream: Stream,
    given: Data,
    request: BatchRequest,
    *,
    prepare: Callable[[Any], Tensor],
    classes: tuple[int, str] | None,
    names: Sequence[str] = (),
    also: Mapping[str, int] | None = None,
) -> Iterator[dict[str, Tensor]]:
    """Return batches as `zoo.data.images.image_batches` does, of rows that pass by; the order is drawn among the next.

    Args:
        stream: the rows.
        given: their columns, and how much is held out.
        request: batch size, split and seed.
        prepare: a list of images as `ImageItems` holds them → the "images" of a batch.
        classes: how many classes the model has and what it is called; None takes labels as the data number them.
        names: the model's classes, in order.
        also: further names of them → number.

    Raises:
        DataError: no column of images, or classes that do not fit; of single rows when they come.
    """
    columns = find_columns(stream.columns, ("image",), ("label",), given=given.columns, origin=stream.origin)
    if given.classes is not None:
        raise DataError(
            f"{stream.origin}: classes cannot be chosen of a stream: filter it, or give a dataset with a length"
        )
    training = classes is not None and classes[0] > 0
    if training and "label" not in columns:
        check_labels(None, count=classes[0] if classes else 0, model=classes[1] if classes else "")
    label = columns.get("label") if classes is None or training else None
    number = _numbering(stream, label, classes, names, also) if label else None
    record(_report(stream, columns, given))
    source = _Source(stream, given, columns["image"], request.split)
    rows = stream.shuffled(source.rows, seed=request.seed) if request.training else source.rows()
    return _batches(rows, columns["image"], label, number, request.batch_size, prepare, endless=request.training)


class _Source:
    """The rows of one split whose images can be read."""

    def __init__(self, stream: Stream, given: Data, image: str, split: str) -> None:
        self._stream, self._given, self._image = stream, given, image
        self._split = given.split or split
        self._said = False

    def rows(self) -> Iterator[Row]:
        for row in self._chosen():
            wrong = check(row[self._image]).wrong
            if not wrong:
                yield row
            elif self._given.broken == "refuse":
                raise DataError(f'{self._stream.origin}: an image cannot be used: {wrong}: use broken="skip"')
            elif not self._said:
                self._said = True
                warnings.warn(printable(f"{self._stream.origin}: images are left out: {wrong}"), stacklevel=2)

    def _chosen(self) -> Iterable[Row]:
        if self._split == ALL:
            return (row for begin in self._stream.passes.values() for row in begin())
        given = self._given
        return self._stream.rows(split_name(self._split), key=self._key, hold_out=given.hold_out, seed=given.seed)

    def _key(self, row: Row) -> Any:
        group = self._given.group
        return check(row[self._image]).key if group is None else repr(row[group])


def _batches(
    rows: Iterator[Row],
    image: str,
    label: str | None,
    number: Callable[[Any], int] | None,
    size: int,
    prepare: Callable[[Any], Tensor],
    *,
    endless: bool,
) -> Iterator[dict[str, Tensor]]:
    images: list[Any] = []
    labels: list[int] = []
    signed: bool | None = None
    for row in rows:
        images.append(row[image])
        if label is not None and number is not None:
            labels.append(number(row[label]))
        if len(images) == size:
            signed = _is_signed(images) if signed is None else signed
            yield _batch(prepare, images, labels, signed)
            images, labels = [], []
    if images and not endless:
        yield _batch(prepare, images, labels, _is_signed(images) if signed is None else signed)


def _batch(prepare: Callable[[Any], Tensor], images: list[Any], labels: list[int], signed: bool) -> dict[str, Tensor]:
    import torch

    made = {"images": prepare([_item(one, signed) for one in images])}
    return made | ({"labels": torch.tensor(labels)} if labels else {})


def _item(value: Any, signed: bool) -> Any:
    if is_pil(value) or not (hasattr(value, "ndim") or isinstance(value, list)):
        return open_image(value)
    group = as_single(value)
    if not signed and is_signed([group]):
        raise DataError("the stream's floats seemed to lie in [0, 1], and one is negative: scale all of them alike")
    return scaled(group, signed)[0]


def _is_signed(images: Sequence[Any]) -> bool:
    return is_signed([as_single(one) for one in images if hasattr(one, "ndim")])


def _numbering(
    stream: Stream,
    column: str,
    classes: tuple[int, str] | None,
    names: Sequence[str],
    also: Mapping[str, int] | None,
) -> Callable[[Any], int]:
    """Return value → the number of its class.

    Raises:
        DataError: the declared classes do not fit.
    """
    declared = stream.classes.get(column, ())
    count, model = classes or (0, "")
    own = list(names) or [str(i) for i in range(count)]
    place: dict[Any, int] = {}
    if declared and count:
        numbers, said = bind_classes(list(declared), own, model=model, also=also)
        place = dict(enumerate(numbers))
        if said:
            record(Report(model, "", notes=(said,)))

    def number(value: Any) -> int:
        value = value.item() if hasattr(value, "item") else value
        if value not in place:
            if isinstance(value, str):
                if not count or not names:
                    raise DataError(
                        f"{stream.origin}: has classes as texts ({value!r}) that nothing gives a number: declare them "
                        "(ClassLabel), or load a model that has names"
                    )
                [place[value]], _ = bind_classes([value], own, model=model, also=also)
            elif not isinstance(value, int) or value < 0 or (count and value >= count):
                raise DataError(f"{stream.origin}: expected labels from 0 to {count - 1}, got {value!r}")
            else:
                place[value] = int(value)
        return place[value]

    return number


def _report(stream: Stream, columns: dict[str, str], given: Data) -> Report:
    own = stream.passes.keys() - {"train"}
    rule = "splits as the data have them" if own else f"about {given.hold_out:.0%} held out, seed {given.seed}"
    unused = tuple(name for name in stream.columns if name not in columns.values())
    notes = (f"a stream: its images are read as they pass by; {rule}", *stream.notes)
    return Report(stream.origin, "images", columns=columns, unused=unused, notes=notes)
