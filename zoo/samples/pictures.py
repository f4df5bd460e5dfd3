"""Draw picture tensors: grids with captions, picture files, and pixels in a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from zoo.errors import ZooError

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.console import Console, ConsoleOptions, RenderResult
    from torch import Tensor

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_GAP = 2  # pixels between the pictures of a grid
CELL = 96  # small pictures are enlarged to about this many pixels
CAPTION = 11  # font size in pixels
_RAMP = " .:-=+*#%@"


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
    images: Tensor, *, columns: int | None = None, captions: Sequence[str] | None = None, cell: int = CELL
) -> Image:
    """Return one picture of `images`, row by row.

    Args:
        images: `[n, c, h, w]` in [0, 1].
        columns: pictures per row; default near-square.
        captions: a line for each picture, shown under it and cut to its width.
        cell: smaller pictures are enlarged to about this many pixels, by a whole factor and without smoothing.

    Raises:
        ZooError: there is no picture, or no column.
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
    below = CAPTION + 4 if captions is not None else 0
    size = (columns * (width + _GAP) + _GAP, rows * (height + below + _GAP) + _GAP)
    canvas = PIL.new(mode, size, paper(mode))
    draw = ImageDraw.Draw(canvas)
    font = caption_font(CAPTION)
    for index, picture in enumerate(pictures):
        left = _GAP + index % columns * (width + _GAP)
        top = _GAP + index // columns * (height + below + _GAP)
        canvas.paste(picture.resize((width, height), PIL.Resampling.NEAREST), (left, top))
        if captions is not None:
            line = cut(captions[index], width, font)
            middle = left + (width - font.getlength(line)) / 2
            draw.text((middle, top + height + 1), line, fill=ink(mode), font=font)
    return canvas


def encode(image: Image, suffix: str = ".png") -> bytes:
    """Return `image` as the content of a file of that suffix."""
    from io import BytesIO

    kind = {".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}.get(suffix.lower(), "PNG")
    buffer = BytesIO()
    (image.convert("RGB") if kind == "JPEG" else image).save(buffer, kind)
    return buffer.getvalue()


def to_pictures(images: Tensor) -> list[Image]:
    """Return Pillow pictures of `images` `[n, c, h, w]` in [0, 1]; values outside are clipped, NaN is black.

    Of images that are neither grey nor in colour the channels stand side by side, in grey.
    """
    from PIL import Image as PIL

    # (n, c, h, w) -> (n, h, w, c), bytes
    data = checked_images(images).detach().float().nan_to_num(0.0).clamp(0, 1)
    if data.shape[1] not in (1, 3, 4):
        data = data.permute(0, 2, 1, 3).flatten(2)[:, None]  # [n, 1, h, c · w]
    pixels = (data * 255).round().byte().cpu().permute(0, 2, 3, 1).contiguous().numpy()
    return [PIL.fromarray(item[..., 0] if item.shape[-1] == 1 else item) for item in pixels]


def checked_images(data: Any) -> Tensor:
    """Return `data` if it is a float Tensor `[n, c, h, w]`, else raise `ZooError`."""
    import torch

    if not isinstance(data, torch.Tensor) or data.ndim != 4 or not data.shape[1]:
        got = tuple(data.shape) if isinstance(data, torch.Tensor) else type(data).__name__
        raise ZooError(f"expected pictures as a Tensor [n, c, h, w], got {got}")
    if not data.is_floating_point():
        raise ZooError(f"expected pictures as floating point in [0, 1], got {data.dtype}: divide bytes by 255")
    return data


def _at_most(image: Image, width: int) -> Image:
    from PIL import Image as PIL

    if image.width <= width:
        return image
    return image.resize((width, max(1, round(image.height * width / image.width))), PIL.Resampling.BOX)


def caption_font(size: int) -> Any:
    """Return Pillow's own font, which is on every machine."""
    from PIL import ImageFont

    return ImageFont.load_default(size)


def cut(line: str, width: int, font: Any) -> str:
    """Return the first line of `line`, cut to fit into `width` pixels."""
    line = line.splitlines()[0] if line.strip() else ""
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(f"{line}…") > width:
        line = line[:-1]
    return f"{line}…"


def paper(mode: str) -> int | tuple[int, ...]:
    """Return the background colour of a picture of that mode."""
    return 255 if mode == "L" else (255,) * len(mode)


def ink(mode: str) -> int | tuple[int, ...]:
    """Return the colour of text on a picture of that mode."""
    return 40 if mode == "L" else (*(40, 40, 40), *(255,) * (len(mode) - 3))
