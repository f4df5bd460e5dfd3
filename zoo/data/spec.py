"""`zoo.Data`: what a person has, and how it is to be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from zoo.errors import DataError, did_you_mean

# A split -> the names of folders and of a dataset's splits that mean it.
SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev", "eval"),
    "test": ("test", "testing"),
}
ALL = "all"
HOLD_OUT = 0.1


@dataclass(frozen=True)
class Data:
    """Data with what is to be known to read them; every place that takes data takes one of these too.

    Attributes:
        source: a name, a folder, a file, a dataset, tensors, a list.
        columns: what a column is → its name in the data, `{"text": "review", "label": "stars"}`. Where it is not said,
            the usual names are looked for.
        classes: the classes to use, in order, or the data's names → the model's; None: all that there are.
        hold_out: the share of the examples that is kept for evaluation, where the data have no splits of their own.
        group: the column whose equal values stay together in one split, such as an author; None: equal examples do.
        seed: of the split, and of nothing else.
        split: the one split to use wherever one is asked for: "train", "validation", "test", or "all"; None: the one
            that is asked for.
        broken: "skip" leaves out what cannot be read and says so, "refuse" raises an error.

    >>> Data("reviews.csv", columns={"text": "review"}).hold_out
    0.1
    """

    source: Any
    columns: Mapping[str, str] = field(default_factory=dict)
    classes: Sequence[str] | Mapping[str, str] | None = None
    hold_out: float = HOLD_OUT
    group: str | None = None
    seed: int = 0
    split: str | None = None
    broken: Literal["skip", "refuse"] = "skip"

    def __post_init__(self) -> None:
        if isinstance(self.source, Data):
            raise DataError("zoo.Data: expected a folder, a file or the like, got another zoo.Data: use its .source")
        share = self.hold_out
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < 1:
            raise DataError(f"expected hold_out as a share from 0 to below 1, got {share!r}")
        if self.split is not None and self.split != ALL:
            split_name(self.split)
        if self.broken not in ("skip", "refuse"):
            raise DataError(f'expected broken="skip" or "refuse", got {self.broken!r}')
        if not isinstance(self.columns, Mapping):
            raise DataError(f'expected columns as {{"text": "review"}}, got {type(self.columns).__name__}')
        if isinstance(self.classes, str):
            raise DataError(f"expected classes as a list of names, got the text {self.classes!r}")


def as_data(data: Any, own: Any = None, **given: Any) -> Data:
    """Return `data` as a `Data`: itself, or one with the defaults, around `own` where it is None.

    Args:
        data: what a user gave.
        own: what None means.
        given: attributes of `Data` that the user gave beside it; None counts as not given.

    Raises:
        DataError: an attribute cannot be.
    """
    chosen = data if isinstance(data, Data) else Data(data)
    if chosen.source is None:
        chosen = replace(chosen, source=own)
    given = {name: value for name, value in given.items() if value is not None}
    return replace(chosen, **given) if given else chosen


def split_name(split: str) -> str:
    """Return "train", "validation" or "test" for any name of a split.

    Raises:
        DataError: it is none.
    """
    for name, others in SPLITS.items():
        if split in others:
            return name
    raise DataError(f"expected one of the splits {', '.join(SPLITS)}, got {split!r}.{did_you_mean(str(split), SPLITS)}")
