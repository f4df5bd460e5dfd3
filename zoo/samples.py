"""What a model's `sample` gives: pictures, texts or class posteriors, which can be saved and which show themselves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import posteriors
from zoo.errors import OutputError, ZooError

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from torch import Tensor

KINDS = ("image", "text", "posterior")
_PICTURES = (".png", ".jpg", ".jpeg", ".webp")
_SUFFIXES = {"image": _PICTURES, "text": (".txt", ".md"), "posterior": (*_PICTURES, ".csv", ".txt")}
_GAP = 2  # pixels between the pictures of a grid
_CELL = 96  # small pictures are enlarged to about this many pixels
_ACROSS = 16  # pictures in a line of a sheet at most
_CAPTION = 11  # font size in pixels
_RAMP = " .:-=+*#%@"


class Samples:
    """What was drawn from a model.

    Args:
        data: kind "image": float Tensor [n, c, h, w] in [0, 1], c = 1, 3 or 4. Kind "text": list of n strings. Kind
            "posterior": float Tensor [n, k], in each row the probabilities of k classes.
        kind: "image", "text" or "posterior".
        captions: one line per sample, shown under it, or None.
        labels, images, top: of a posterior: the names of the classes (default: their numbers), the pictures
            [n, c, h, w] in [0, 1] that it is of, if any, and how many of the likeliest classes are shown.

    Iteration yields the items: Tensors [c, h, w], strings, or Tensors [k].
    """

    def __init__(
        self,
        data: Tensor | Sequence[str],
        kind: str,
        captions: Sequence[str] | None = None,
        *,
        labels: Sequence[str] | None = None,
        images: Tensor | None = None,
        top: int = 5,
    ) -> None:
        if kind not in KINDS:
            raise ZooError(f"expected samples of kind {' or '.join(map(repr, KINDS))}, got {kind!r}")
        self.data: Any
        self.labels: list[str] | None = None
        self.images = None if images is None else _checked_images(images)
        self.top = top
        if kind == "posterior":
            self.data, self.labels = posteriors.checked(data, labels)
        else:
            self.data = _checked_images(data) if kind == "image" else _checked_texts(data)
        if self.images is not None and len(self.images) != len(self.data):
            raise ZooError(f"expected one picture for each of {len(self.data)} samples, got {len(self.images)}")
        self.kind = kind
        self.captions = None if captions is None else [str(caption) for caption in captions]
        if self.captions is not None and len(self.captions) != len(self.data):
            raise ZooError(f"expected one caption for each of {len(self.data)} samples, got {len(self.captions)}")

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.data)

    def __repr__(self) -> str:
        count = f"{len(self)} {self.kind}{'' if len(self) == 1 else 's'}"
        if self.kind == "posterior":
            return f"<Samples: {count} over {self.data.shape[1]} classes>"
        return f"<Samples: {count}{' of ' + 'x'.join(map(str, self.data.shape[1:])) if self.kind == 'image' else ''}>"

    def likeliest(self, top: int | None = None) -> list[list[tuple[str, float]]]:
        """Of a posterior: each sample's likeliest classes, (label, probability), best first."""
        if self.kind != "posterior":
            raise ZooError(f"expected samples of kind 'posterior', these are {self.kind!r}")
        return posteriors.likeliest(self.data, self.labels or [], top or self.top)

    def pictures(self) -> tuple[Tensor, list[str] | None] | None:
        """The pictures that there are to show, [n, c, h, w], and a line for each: its caption or likeliest class."""
        if self.kind == "posterior":
            lines = [f"{label} {value:.0%}" for ((label, value),) in self.likeliest(1)]
            return None if self.images is None else (self.images, lines)
        return (self.data, self.captions) if self.kind == "image" else None

    def image(self, columns: int | None = None) -> Image:
        """All pictures as one grid, near-square unless `columns` is given, with the captions under them.

        Of a posterior: the likeliest classes of each sample as bars, beside its picture.
        """
        if self.kind == "posterior":
            return posteriors.picture(self.likeliest(), self.images, self.captions, columns)
        if self.kind != "image":
            raise ZooError(f"expected samples of kind 'image', these are {self.kind!r}: print or save them as .txt")
        return grid(self.data, columns=columns, captions=self.captions)

    def text(self) -> str:
        """All texts as one; several, or captioned ones, each under a line that names it.

        Of a posterior: a line for each sample with its likeliest classes.
        """
        if self.kind == "posterior":
            return posteriors.as_text(self.likeliest(), self.captions)
        if self.kind != "text":
            raise ZooError(f"expected samples of kind 'text', these are {self.kind!r}: use .image(), or save as .png")
        if len(self) == 1 and self.captions is None:
            return f"{self.data[0]}\n"
        names = self.captions or [str(index + 1) for index in range(len(self))]
        return "\n".join(f"=== {name} ===\n{text}\n" for name, text in zip(names, self.data, strict=True))

    def save(self, path: str | Path, *, columns: int | None = None) -> Path:
        """Write pictures as one grid (.png, .jpg, .webp) or texts as one file (.txt, .md); gives the path.

        A posterior: as a picture or a text of the likeliest classes, or all of it as a table (.csv).

        The file appears whole or not at all.

        Raises:
            OutputError: the name ends in something else, or the file cannot be written.
        """
        from zoo.files import write_bytes, write_text

        path = Path(path)
        suffixes = _SUFFIXES[self.kind]
        if path.suffix.lower() not in suffixes:
            raise OutputError(f"cannot save {self.kind} samples as {path}: expected a name in {', '.join(suffixes)}")
        if path.suffix.lower() == ".csv":
            write_text(path, posteriors.as_csv(self.data, self.labels or [], self.captions))
        elif path.suffix.lower() in _PICTURES:
            write_bytes(path, encode(self.image(columns), path.suffix))
        else:
            write_text(path, self.text())
        return path

    def _repr_png_(self) -> bytes | None:
        return encode(self.image()) if self.kind != "text" and len(self) else None

    def _repr_html_(self) -> str | None:
        from html import escape

        if self.kind != "text":
            return None
        captions = self.captions or [""] * len(self)
        items = (
            f"<figure>{f'<figcaption><b>{escape(caption)}</b></figcaption>' if caption else ''}"
            f'<pre style="white-space: pre-wrap">{escape(text)}</pre></figure>'
            for caption, text in zip(captions, self.data, strict=True)
        )
        return "".join(items)

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.panel import Panel
        from rich.text import Text

        if not len(self):
            return Text(repr(self))
        if self.kind == "posterior":
            return posteriors.as_table(self.likeliest(), self.captions)
        if self.kind == "image":
            return Pixels(grid(self.data, captions=None, cell=1))
        titles = self.captions or [""] * len(self)
        # Text, not str: brackets in a sample are no markup.
        return Group(
            *(
                Panel(Text(text), title=Text(title) if title else None, title_align="left")
                for title, text in zip(titles, self.data, strict=True)
            )
        )


class Pixels:
    """A picture in a terminal: two pixels to a character in colour, or shades of ASCII where there is no colour."""

    def __init__(self, image: Image) -> None:
        self.image = image.convert("RGB")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.color import Color
        from rich.segment import Segment
        from rich.style import Style

        image = _at_most(self.image, options.max_width)
        pixels: Any = image.load()
        width, height = image.size
        for top in range(0, height, 2):
            for x in range(width):
                upper, lower = pixels[x, top], pixels[x, min(top + 1, height - 1)]
                if console.color_system is None:
                    light = (sum(upper) + sum(lower)) / (6 * 255)
                    yield Segment(_RAMP[min(int(light * len(_RAMP)), len(_RAMP) - 1)])
                else:
                    yield Segment("▀", Style(color=Color.from_rgb(*upper), bgcolor=Color.from_rgb(*lower)))
            yield Segment.line()


def grid(
    images: Tensor, *, columns: int | None = None, captions: Sequence[str] | None = None, cell: int = _CELL
) -> Image:
    """One picture of `images` [n, c, h, w] in [0, 1], row by row.

    Near-square unless `columns` is given. Pictures smaller than `cell` pixels are enlarged by a whole factor, without
    smoothing. Captions stand under the pictures, cut to their width.
    """
    from PIL import Image as PIL
    from PIL import ImageDraw

    pictures = to_pictures(images)
    if not pictures:
        raise ZooError("expected at least one picture, got none")
    if columns is not None and columns < 1:
        raise ZooError(f"expected at least one column, got {columns}")
    mode, (width, height) = pictures[0].mode, pictures[0].size
    factor = max(1, cell // max(width, height))
    width, height = width * factor, height * factor
    columns = min(columns or math.ceil(math.sqrt(len(pictures))), len(pictures))
    rows = math.ceil(len(pictures) / columns)
    below = _CAPTION + 4 if captions is not None else 0
    size = (columns * (width + _GAP) + _GAP, rows * (height + below + _GAP) + _GAP)
    canvas = PIL.new(mode, size, _paper(mode))
    draw = ImageDraw.Draw(canvas)
    font = caption_font(_CAPTION)
    for index, picture in enumerate(pictures):
        left = _GAP + index % columns * (width + _GAP)
        top = _GAP + index // columns * (height + below + _GAP)
        canvas.paste(picture.resize((width, height), PIL.Resampling.NEAREST), (left, top))
        if captions is not None:
            line = cut(captions[index], width, font)
            middle = left + (width - font.getlength(line)) / 2
            draw.text((middle, top + height + 1), line, fill=_ink(mode), font=font)
    return canvas


def sheet(rows: Sequence[tuple[str, Samples | Tensor]], *, cell: int = _CELL) -> Image:
    """One picture with a labelled row for each (label, pictures), e.g. "before", "after" and "data".

    A Tensor is [n, c, h, w] in [0, 1], as in Samples. Rows may differ in length, size and channels; one of more than
    16 pictures is broken into lines of equal length.
    """
    from PIL import Image as PIL
    from PIL import ImageDraw

    if not rows:
        raise ZooError("expected at least one row, got none")
    strips = []
    for _, row in rows:
        shown = row.pictures() if isinstance(row, Samples) else (row, None)
        if shown is None:
            raise ZooError("expected rows of pictures, got samples that have none")
        images, captions = shown
        lines = math.ceil(len(images) / _ACROSS)
        columns = math.ceil(len(images) / max(1, lines))
        strips.append(grid(images, columns=max(1, columns), captions=captions, cell=cell).convert("RGB"))
    font = caption_font(_CAPTION + 3)
    margin = math.ceil(max(font.getlength(label) for label, _ in rows)) + 16
    canvas = PIL.new("RGB", (margin + max(s.width for s in strips), sum(s.height for s in strips)), _paper("RGB"))
    draw, top = ImageDraw.Draw(canvas), 0
    for (label, _), strip in zip(rows, strips, strict=True):
        draw.text((8, top + strip.height / 2), label, fill=_ink("RGB"), font=font, anchor="lm")
        canvas.paste(strip, (margin, top))
        top += strip.height
    return canvas


def encode(image: Image, suffix: str = ".png") -> bytes:
    """`image` as the bytes of a file of that suffix."""
    from io import BytesIO

    kind = {".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}.get(suffix.lower(), "PNG")
    buffer = BytesIO()
    (image.convert("RGB") if kind == "JPEG" else image).save(buffer, kind)
    return buffer.getvalue()


def to_pictures(images: Tensor) -> list[Image]:
    """Pillow pictures of `images` [n, c, h, w] in [0, 1]; values outside are clipped, NaN is black."""
    from PIL import Image as PIL

    # (n, c, h, w) -> (n, h, w, c), bytes
    data = _checked_images(images).detach().float().nan_to_num(0.0).clamp(0, 1)
    pixels = (data * 255).round().byte().cpu().permute(0, 2, 3, 1).contiguous().numpy()
    return [PIL.fromarray(item[..., 0] if item.shape[-1] == 1 else item) for item in pixels]


def _checked_images(data: Any) -> Tensor:
    import torch

    if not isinstance(data, torch.Tensor) or data.ndim != 4 or data.shape[1] not in (1, 3, 4):
        got = tuple(data.shape) if isinstance(data, torch.Tensor) else type(data).__name__
        raise ZooError(f"expected pictures as a Tensor [n, c, h, w] with 1, 3 or 4 channels, got {got}")
    if not data.is_floating_point():
        raise ZooError(f"expected pictures as floating point in [0, 1], got {data.dtype}: divide bytes by 255")
    return data


def _checked_texts(data: Any) -> list[str]:
    if isinstance(data, str) or not all(isinstance(item, str) for item in data):
        raise ZooError(f"expected texts as a list of strings, got {type(data).__name__}")
    return list(data)


def _at_most(image: Image, width: int) -> Image:
    from PIL import Image as PIL

    if image.width <= width:
        return image
    return image.resize((width, max(1, round(image.height * width / image.width))), PIL.Resampling.BOX)


def caption_font(size: int) -> Any:
    """Pillow's own font, which is on every machine."""
    from PIL import ImageFont

    return ImageFont.load_default(size)


def cut(line: str, width: int, font: Any) -> str:
    """The first line of `line`, as much of it as fits into `width` pixels."""
    line = line.splitlines()[0] if line.strip() else ""
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(f"{line}…") > width:
        line = line[:-1]
    return f"{line}…"


def _paper(mode: str) -> int | tuple[int, ...]:
    return 255 if mode == "L" else (255,) * len(mode)


def _ink(mode: str) -> int | tuple[int, ...]:
    return 40 if mode == "L" else (*(40, 40, 40), *(255,) * (len(mode) - 3))
