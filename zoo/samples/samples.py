"""`zoo.Samples`: pictures, texts, class probabilities or a kind of a plugin's own, which are saved and displayed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import OutputError, ZooError
from zoo.samples.classes import CLASSES, PROBABILITIES
from zoo.samples.images import IMAGES
from zoo.samples.kind import Row, SampleKind, Shown
from zoo.samples.pictures import SUFFIXES, checked_images, encode, grid, to_pictures
from zoo.samples.showing import html_of, pictures_of, rich_of, text_of
from zoo.samples.texts import TEXTS

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.console import RenderableType
    from torch import Tensor

KINDS: dict[str, SampleKind] = {kind.name: kind for kind in (IMAGES, TEXTS, CLASSES, PROBABILITIES)}
_OF_TEXTS = (".txt", ".md")


class Samples:
    """Samples of a model. Iteration yields the items: Tensors `[c, h, w]`, strings, Tensors `[k]`, or those of a kind.

    Args:
        data: kind "image": float Tensor `[n, c, h, w]` in [0, 1], c = 1, 3 or 4. Kind "text": list of n strings. Kind
            "posterior": float Tensor `[n, k]`, in each row the probabilities of k classes, which add up to 1;
            "probabilities": the same of k classes that do not exclude each other. Another kind: as its `check` says.
        kind: "image", "text", "posterior", "probabilities", or a `zoo.SampleKind`.
        captions: one line per sample, shown under it, or None.
        labels: of class probabilities: the names of the classes (default: their numbers).
        images: of class probabilities: the classified pictures `[n, c, h, w]` in [0, 1], if there are any.
        top: of class probabilities: how many of the most probable classes are shown.

    Raises:
        ZooError: `data` has not the form of its kind, or captions, labels or images are not as many.
    """

    def __init__(
        self,
        data: Tensor | Sequence[str],
        kind: str | SampleKind,
        captions: Sequence[str] | None = None,
        *,
        labels: Sequence[str] | None = None,
        images: Tensor | None = None,
        top: int = 5,
    ) -> None:
        if not isinstance(kind, SampleKind) and kind not in KINDS:
            raise ZooError(
                f"expected samples of kind {' or '.join(map(repr, KINDS))} or a zoo.SampleKind, got {kind!r}"
            )
        self.sample_kind = kind if isinstance(kind, SampleKind) else KINDS[kind]
        self.data: Any
        self.labels: list[str] | None
        self.images = None if images is None else checked_images(images)
        self.top = top
        self.data, self.labels = self.sample_kind.check(data, labels)
        if self.images is not None and len(self.images) != len(self.data):
            raise ZooError(f"expected one picture for each of {len(self.data)} samples, got {len(self.images)}")
        self.captions = None if captions is None else [str(caption) for caption in captions]
        if self.captions is not None and len(self.captions) != len(self.data):
            raise ZooError(f"expected one caption for each of {len(self.data)} samples, got {len(self.captions)}")
        self._shown: list[Shown] | None = None

    @property
    def kind(self) -> str:
        """The name of their kind."""
        return self.sample_kind.name

    def __reduce__(self) -> Any:
        own = self.sample_kind if KINDS.get(self.kind) is not self.sample_kind else self.kind
        return _made, (self.data, own, self.captions, self.labels, self.images, self.top)

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.data)

    def __getitem__(self, index: int | slice | Sequence[int]) -> Samples:
        """Return some of the samples, with their captions and pictures: one by its number, a slice, or a list.

        Raises:
            IndexError: there is no sample of this number.
        """
        chosen = range(len(self))[index] if isinstance(index, int | slice) else [range(len(self))[one] for one in index]
        numbers = [chosen] if isinstance(chosen, int) else list(chosen)
        return Samples(
            [self.data[number] for number in numbers] if isinstance(self.data, list) else self.data[numbers],
            self.sample_kind,
            None if self.captions is None else [self.captions[number] for number in numbers],
            labels=self.labels,
            images=None if self.images is None else self.images[numbers],
            top=self.top,
        )

    @classmethod
    def joined(cls, parts: Sequence[Samples]) -> Samples:
        """Return the samples of several, one after the other.

        Raises:
            ZooError: they are of different kinds, sizes or classes, or only some have captions or pictures.
        """
        import torch

        if not parts:
            raise ZooError("expected samples to join, got none")
        first = parts[0]
        for part in parts[1:]:
            for name, found, wanted in (
                ("kind", part.kind, first.kind),
                ("classes", part.labels, first.labels),
                ("shape", *[getattr(one.data, "shape", ())[1:] for one in (part, first)]),
                ("captions", *[("some" if one.captions else "none") for one in (part, first)]),
                ("pictures", *[getattr(one.images, "shape", ())[1:] for one in (part, first)]),
            ):
                if found != wanted:
                    raise ZooError(f"expected samples of one {name}, got {wanted!r:.80} and {found!r:.80}")
        texts = isinstance(first.data, list)
        return cls(
            [text for part in parts for text in part.data] if texts else torch.cat([part.data for part in parts]),
            first.sample_kind,
            None if first.captions is None else [caption for part in parts for caption in part.captions or ()],
            labels=first.labels,
            images=None if first.images is None else torch.cat([part.images for part in parts]),  # type: ignore[misc]
            top=first.top,
        )

    def __repr__(self) -> str:
        plural = "" if len(self) == 1 else "s"
        return f"<Samples: {len(self)} {self.kind}{plural}{self.sample_kind.details(self.data)}>"

    def shown(self) -> list[Shown]:
        """Return what is shown of each sample.

        Raises:
            ZooError: the kind shows something of more or fewer samples than there are.
        """
        if self._shown is None:
            found = list(self.sample_kind.show(self)) if len(self) else []
            if len(found) != len(self):
                raise ZooError(f"samples of kind {self.kind!r}: {len(found)} are shown of {len(self)}")
            self._shown = found
        return self._shown

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The file name suffixes that `save` accepts, the usual one first."""
        if self.sample_kind.endings:
            return self.sample_kind.endings
        pictures = SUFFIXES if self._draws() else ()
        texts = _OF_TEXTS if self.sample_kind.text or self._tells() else ()
        return tuple(dict.fromkeys((*self.sample_kind.files, *pictures, *texts)))

    def _draws(self) -> bool:
        """Whether there is a picture of every sample; also of none of a kind that has pictures always."""
        return bool(self.sample_kind.image) or all(one.picture is not None for one in self.shown())

    def _tells(self) -> bool:
        return bool(self.sample_kind.text) or all(one.text is not None for one in self.shown())

    def topk(self, top: int | None = None) -> list[Row]:
        """Return the most probable classes of each sample, (label, probability), best first.

        Args:
            top: how many; default as given to `Samples`.

        Raises:
            ZooError: these are no class probabilities.
        """
        if self.sample_kind.topk is None:
            raise ZooError(f"expected samples of kind 'posterior', these are {self.kind!r}")
        return self.sample_kind.topk(self, top or self.top)

    def likeliest(self, top: int | None = None) -> list[Row]:
        """Return `topk(top)`: the old name, until version 0.3."""
        from zoo.compat import warn

        warn("Samples.likeliest is now Samples.topk")
        return self.topk(top)

    def pictures(self) -> tuple[Tensor, list[str] | None] | None:
        """Return the pictures to show, `[n, c, h, w]`, and a line for each: its caption or most probable class."""
        return pictures_of(self.shown(), self.captions)

    def image(self, columns: int | None = None) -> Image:
        """Return all samples as one picture.

        Pictures are a grid with the captions under them; of class probabilities, the most probable classes of each
        sample are bars beside its picture.

        Args:
            columns: samples per row; default near-square.

        Raises:
            ZooError: there is no picture of them, or nothing to show.
        """
        if self.sample_kind.image is not None:
            return self.sample_kind.image(self, columns)
        if not len(self):
            raise ZooError("expected at least one sample, got none")
        if (found := self.pictures()) is None:
            raise self._lacks("picture")
        return grid(found[0], columns=columns, captions=self.captions)

    def text(self) -> str:
        """Return all samples as one text.

        Several texts, or captioned ones, stand each under a heading; of class probabilities, each sample is a line
        with its most probable classes.

        Raises:
            ZooError: there is no text of them.
        """
        found = self.sample_kind.text(self) if self.sample_kind.text else text_of(self.shown(), self.captions)
        if found is None:
            raise self._lacks("text")
        return found

    def _lacks(self, what: str) -> ZooError:
        known = ", ".join(self.suffixes)
        use = "use .image(), or " if self._draws() else "use .text(), or " if self._tells() else ""
        return ZooError(f"there is no {what} of samples of kind {self.kind!r}: {use}save them as {known}")

    def json(self) -> list[Any] | None:
        """Return the samples as JSON values: texts, or the most probable classes; None for what has no such form."""
        if self.sample_kind.json is not None:
            return self.sample_kind.json(self)
        return list(self.data) if isinstance(self.data, list) else None

    def content(self, suffix: str, *, columns: int | None = None) -> bytes:
        """Return the samples as the content of a file.

        Args:
            suffix: one of `suffixes`.
            columns: samples per row of a picture; default near-square.

        Raises:
            OutputError: there is no such file of them, or one holds one sample and there are more.
        """
        suffix = suffix.lower()
        if suffix not in self.suffixes:
            known = ", ".join(self.suffixes)
            raise OutputError(f"cannot save {self.kind} samples as {suffix}: expected a name in {known}")
        if suffix in self.sample_kind.single and len(self) != 1:
            raise OutputError(
                f"a {suffix} file holds one sample, these are {len(self)}: give a folder, which gets a file of each"
            )
        if suffix in self.sample_kind.files:
            made = self.sample_kind.files[suffix](self)
            return made.encode() if isinstance(made, str) else bytes(made)
        return encode(self.image(columns), suffix) if suffix in SUFFIXES else self.text().encode()

    def each(self) -> list[bytes]:
        """Return the content of a file of each sample, with the first of `suffixes`; pictures as large as they are."""
        suffix = self.suffixes[0]
        if suffix in SUFFIXES and self.sample_kind.image is None:
            pictures = self.pictures()
            return [encode(one, suffix) for one in to_pictures(pictures[0])] if pictures else []
        return [self[number].content(suffix) for number in range(len(self))]

    def save(self, path: str | Path, *, columns: int | None = None) -> Path:
        """Write the samples to a file or a folder, whole or not at all, and return its path.

        Pictures are saved as one grid (.png, .jpg, .webp), texts as one file (.txt, .md), class probabilities as a
        picture or a text of the most probable classes, or all of them as a table (.csv). A folder gets a file of each
        sample with the first of `suffixes`, `1.png` and on; others in it stay.

        Args:
            path: the file; a folder is one that is there, or a name without an ending or with "/" at its end.
            columns: samples per row of a picture; default near-square.

        Raises:
            OutputError: the name ends in something else, or the file cannot be written.
        """
        from zoo.storage.atomic import staged_folder, write_bytes

        is_folder = os.fspath(path).endswith(("/", os.sep)) or Path(path).is_dir() or not Path(path).suffix
        path = Path(path)
        if not is_folder:
            write_bytes(path, self.content(path.suffix, columns=columns))
            return path
        contents, width = self.each(), len(str(len(self)))
        with staged_folder(path) as folder:
            for number, content in enumerate(contents, start=1):
                (folder / f"{number:0{width}}{self.suffixes[0]}").write_bytes(content)
        return path

    def _repr_png_(self) -> bytes | None:
        return encode(self.image()) if len(self) and self._draws() else None

    def _repr_html_(self) -> str | None:
        return html_of(self.shown(), self.captions)

    def __rich__(self) -> RenderableType:
        from rich.text import Text

        if not len(self):
            return Text(repr(self))
        return self.sample_kind.rich(self) if self.sample_kind.rich else rich_of(self.shown(), self.captions)


def _made(data: Any, kind: str | SampleKind, captions: Any, labels: Any, images: Any, top: int) -> Samples:
    return Samples(data, kind, captions, labels=labels, images=images, top=top)
