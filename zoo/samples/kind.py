"""What a kind of samples is: how its data are checked, what is shown of a sample, and which files hold it.

A kind is one `SampleKind`. zoo has those in the table `KINDS` of `samples.py`; a plugin has its own, gives them to
`zoo.Samples` and names them in its hook `sample_kinds`. From what a kind shows of each sample follow the terminal, the
notebook, the picture, the text, the report of a run, the page of `zoo play`, the model card and the answers of
`zoo serve`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from zoo.errors import ZooError

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.console import RenderableType
    from torch import Tensor

Row = list[tuple[str, float]]  # classes of one sample, (label, probability), best first
Distances = tuple[str, list[float]]  # what a value is, and that of each sample


class Content(Protocol):
    """The part of `zoo.Samples` that a kind reads; see there."""

    data: Any
    captions: list[str] | None
    labels: list[str] | None
    images: Tensor | None
    top: int


@dataclass(frozen=True)
class Clip:
    """A sound or a moving picture, as the file that plays it.

    Args:
        data: the file's bytes.
        media_type: what it is: "audio/wav", "image/gif", "video/mp4".
        about: a line about it, such as "1.5 s"; shown where nothing can be played.
    """

    data: bytes
    media_type: str
    about: str = ""


@dataclass(frozen=True)
class Shown:
    """What is shown of one sample wherever samples are shown: any of these.

    Args:
        picture: float Tensor [c, h, w] in [0, 1], c = 1, 3 or 4; of one size in all samples.
        text: lines of text.
        classes: the most probable classes, best first.
        clip: a sound or a moving picture.
    """

    picture: Tensor | None = None
    text: str | None = None
    classes: Row | None = None
    clip: Clip | None = None


def as_given(data: Any, labels: Sequence[str] | None) -> tuple[Any, list[str] | None]:
    """Return data that are a Tensor [n, …] or a list of n strings, and the names of classes.

    Raises:
        ZooError: they are neither.
    """
    import torch

    names = None if labels is None else [str(label) for label in labels]
    if isinstance(data, torch.Tensor) and data.ndim:
        return data.detach().cpu(), names
    if isinstance(data, list | tuple) and all(isinstance(one, str) for one in data):
        return list(data), names
    raise ZooError(f"expected samples as a Tensor [n, …] or a list of strings, got {type(data).__name__}")


def no_details(data: Any) -> str:
    """Return nothing."""
    return ""


def values_apart(first: Content, second: Content) -> Distances:
    """Return the mean absolute difference of each sample's values; of texts 1 where they differ."""
    if isinstance(first.data, list):
        pairs = zip(first.data, second.data, strict=True)
        return "samples that differ", [float(one != other) for one, other in pairs]
    distances = (first.data.double() - second.data.double()).abs()
    return "mean difference of values", distances.reshape(len(distances), -1).mean(1).tolist()


@dataclass(frozen=True)
class SampleKind:
    """A kind of samples. Data are a Tensor [n, …] or a list of n strings.

    The functions get samples, and read their `data`, `captions`, `labels`, `images` and `top`.

    Args:
        name: the value of `Samples.kind`: a noun in the singular, "sound".
        show: returns what is shown of each of n samples.
        files: for endings, with the dot, what makes the file of samples; the usual one first. Besides these there are
            the endings of pictures (.png, .jpg, .webp) where every sample shows one, and of texts (.txt, .md).
        single: those of these endings of which a file holds one sample.
        media_types: of endings that Python's `mimetypes` does not know, or not rightly.
        check: returns data and class names in the form that `Samples` keeps, or raises `ZooError`.
        details: returns what `repr` adds to the number of samples.
        apart: returns what a distance is, and each sample's from the one at its place in others of the same kind and
            shape; by default the mean absolute difference of the values.
        json: returns the samples as JSON values; by default only lists of strings have them.
        topk: returns the so many most probable classes of each sample.
        endings: all endings in another order than the one above.
        image: returns all samples as one picture with so many per row, in place of a grid of the shown pictures.
        text: returns all samples as one text, in place of the shown texts under headings.
        rich: returns samples, at least one, for a terminal, in place of what is shown.
    """

    name: str
    show: Callable[[Content], Sequence[Shown]]
    files: Mapping[str, Callable[[Content], bytes | str]] = field(default_factory=dict)
    single: Collection[str] = ()
    media_types: Mapping[str, str] = field(default_factory=dict)
    check: Callable[[Any, Sequence[str] | None], tuple[Any, list[str] | None]] = as_given
    details: Callable[[Any], str] = no_details
    apart: Callable[[Content, Content], Distances] = values_apart
    json: Callable[[Content], list[Any]] | None = None
    topk: Callable[[Content, int], list[Row]] | None = None
    endings: tuple[str, ...] = ()
    image: Callable[[Content, int | None], Image] | None = None
    text: Callable[[Content], str] | None = None
    rich: Callable[[Content], RenderableType] | None = None

    def __post_init__(self) -> None:
        """Refuse endings that cannot be.

        Raises:
            ZooError: an ending has no dot, or one that holds one sample is not among the files.
        """
        for ending in self.files:
            if not ending.startswith(".") or ending != ending.lower() or len(ending) < 2:
                raise ZooError(f"samples of kind {self.name!r}: expected an ending such as '.wav', got {ending!r}")
        for ending in self.single:
            if ending not in self.files:
                raise ZooError(f"samples of kind {self.name!r}: {ending!r} is in single, and not in files")
