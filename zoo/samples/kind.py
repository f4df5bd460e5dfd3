"""What `Samples` needs to know about a kind of samples: how their data are checked, shown and saved.

A new kind is one file with its own `Kind`, and an entry in `KINDS` of `samples.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.console import RenderableType
    from torch import Tensor

Row = list[tuple[str, float]]  # classes of one sample, (label, probability), best first


class Content(Protocol):
    """The part of `zoo.Samples` that a kind reads; see there."""

    data: Any
    captions: list[str] | None
    labels: list[str] | None
    images: Tensor | None
    top: int


@dataclass(frozen=True)
class Kind:
    """The functions of a kind of samples; None for what it does not have.

    Attributes:
        name: the value of `Samples.kind`.
        suffixes: the file name suffixes that `Samples.save` accepts, the usual one first.
        check: returns data and class names in the form that `Samples` keeps, or raises `ZooError`.
        details: returns what `repr` adds to the number of samples.
        rich: returns samples, at least one, for a terminal.
        pictures: returns pictures `[n, c, h, w]` for a sheet and a line for each, or None if there are none.
        image: returns all samples as one picture, with so many samples per row.
        text: returns all samples as one text.
        csv: returns all samples as comma-separated values.
        json: returns the samples as JSON values.
        html: returns the samples for a notebook, where it does not show `image`.
        topk: returns the so many most probable classes of each sample.
    """

    name: str
    suffixes: tuple[str, ...]
    check: Callable[[Any, Sequence[str] | None], tuple[Any, list[str] | None]]
    details: Callable[[Any], str]
    rich: Callable[[Content], RenderableType]
    pictures: Callable[[Content], tuple[Tensor, list[str] | None] | None] | None = None
    image: Callable[[Content, int | None], Image] | None = None
    text: Callable[[Content], str] | None = None
    csv: Callable[[Content], str] | None = None
    json: Callable[[Content], list[Any]] | None = None
    html: Callable[[Content], str] | None = None
    topk: Callable[[Content, int], list[Row]] | None = None
