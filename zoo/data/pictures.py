"""Files and bytes of pictures: which are, which are whole, and opening them upright."""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from zoo.bounded.regular import open_regular
from zoo.data.limits import PICTURE, PIXELS
from zoo.data.pixels import is_wide
from zoo.data.report import key_of
from zoo.data.spec import Data
from zoo.data.table import Table
from zoo.errors import DataError, one_line

if TYPE_CHECKING:
    from PIL.Image import Image

# The formats that are read, by Pillow's names, with their endings. Others may start programs (EPS) or be documents.
FORMATS = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "AVIF": (".avif", ".avifs"),
    "JPEG2000": (".jp2", ".j2k", ".jpc", ".jpx"),
}
_SCANS = 100  # of a progressive JPEG, each of which costs as much as the whole picture
_SHORTEST = 16  # pixels that a JPEG is decoded to, to see whether it is whole
_REMEMBERED = 2**20  # files


@dataclass(frozen=True)
class Checked:
    """What is known of a picture.

    Attributes:
        key: of its content.
        wrong: what is wrong with it; "": nothing.
        several: whether it has several frames.
        span: its lowest and highest value, where those are 32-bit numbers.
        mode: Pillow's name of such numbers: "I" or "F".
    """

    key: bytes
    wrong: str = ""
    several: bool = False
    span: tuple[float, float] | None = None
    mode: str = ""


@dataclass(frozen=True)
class Refused:
    """A picture that is not opened.

    Attributes:
        name: its name.
        reason: why.
    """

    name: str
    reason: str


def open_image(source: Any) -> Image:
    """Return a picture, upright; of several frames the first.

    Args:
        source: a path, the bytes of a file, {"bytes": …, "path": …} as `datasets` has it, or a PIL image.

    Raises:
        DataError: Pillow cannot read it.
    """
    from PIL import Image, ImageOps

    if isinstance(source, Image.Image):
        return _upright(source)
    name = source if isinstance(source, str | PathLike) else "a picture"
    try:
        with opened(_content(source)) as image:
            upright = ImageOps.exif_transpose(image)  # loads it
            assert upright is not None  # as older Pillows declare it, for in_place=True
            return upright
    except DataError as error:
        raise DataError(f"{name} has {error}") from None
    except Exception as error:  # Pillow's readers raise whatever a broken file makes them
        raise DataError(
            f"{name} is not an image that Pillow can read ({_why(error)}): remove it or convert it"
        ) from error


def is_picture(path: Path) -> bool:
    """Return whether Pillow knows a file's content, or its ending says that it is a picture, whole or not."""
    return path.suffix.lower() in endings() or _is_known(path)


@lru_cache(maxsize=1)
def endings() -> frozenset[str]:
    """Return the endings of files that are read as pictures, such as ".png"."""
    return frozenset(ending for kind in _formats() for ending in FORMATS[kind])


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    """Return those of `FORMATS` that this Pillow reads."""
    from PIL import Image

    Image.init()
    return tuple(kind for kind in FORMATS if kind in Image.OPEN)


@contextmanager
def opened(raw: bytes | BinaryIO) -> Iterator[Image]:
    """Open a picture by its bytes, or by a file of which only the beginning is read; nothing is decoded yet.

    Raises:
        UnidentifiedImageError: it is in none of `FORMATS`.
        DataError: it is larger than `zoo.data.limits` allows.
    """
    from PIL import Image

    if isinstance(raw, bytes):
        said = PICTURE.exceeded(len(raw))
        if said:
            raise DataError(said)
        if raw.startswith(b"\xff\xd8") and raw.count(b"\xff\xda") > _SCANS:
            raise DataError(f"a JPEG of more than {_SCANS} scans: save it anew")
    if Image.MAX_IMAGE_PIXELS is not None and PIXELS.value() > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = PIXELS.value()
    with _lenient():
        try:
            image = Image.open(io.BytesIO(raw) if isinstance(raw, bytes) else raw, formats=_formats())
        except Image.DecompressionBombError:  # Pillow's own limit is twice as many
            most, name = PIXELS.value(), PIXELS.variable
            raise DataError(f"more than {most:,} {PIXELS.what}: if that is meant, set {name}") from None
    with _lenient(), image:
        said = PIXELS.exceeded(image.width * image.height)
        if said:
            raise DataError(said)
        yield image


def check(source: Any) -> Checked:
    """Return what is known of a picture, of which every byte is read and decoded once; a file's is remembered.

    Args:
        source: what `open_image` takes.
    """
    if isinstance(source, str | PathLike):
        path = Path(source)
        try:
            found = path.stat()
        except (OSError, ValueError) as error:
            return Checked(b"", f"it cannot be read ({_reason(error)})")
        return _check_file(path, found.st_size, found.st_mtime_ns)
    if isinstance(source, Mapping):
        if source.get("bytes") is None:
            return check(source["path"]) if source.get("path") else Checked(b"", "it is empty")
        return check(source["bytes"])
    if isinstance(source, bytes | bytearray | memoryview):
        return _check_bytes(bytes(source))
    if isinstance(source, Refused):
        return Checked(b"", source.reason)
    if source is None:
        return Checked(b"", "it is empty")
    return _check_loaded(source)


def check_all(sources: Sequence[Any]) -> list[Checked]:
    """Return what is known of every picture, several at once."""
    if len(sources) < 32:
        return [check(source) for source in sources]
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(check, sources))


def read_pictures(paths: Sequence[Path], origin: str, given: Data) -> Table:
    """Return files of pictures as a table with the columns `image` and `file_name`.

    Raises:
        DataError: none is whole, or one is not and `given.broken` is "refuse".
    """
    whole, skipped, notes = sort_out([(path, path.name) for path in paths], origin, given)
    return Table({"image": whole, "file_name": [path.name for path in whole]}, origin, skipped=skipped, notes=notes)


def sort_out(
    named: Sequence[tuple[Any, str]], origin: str, given: Data
) -> tuple[list[Any], tuple[tuple[str, str], ...], tuple[str, ...]]:
    """Return the pictures that are whole, (name, what is wrong) of the others, and what else to say.

    Raises:
        DataError: none is whole, or one is not and `given.broken` is "refuse".
    """
    known = check_all([source for source, _ in named])
    wrong = tuple((name, one.wrong) for (_, name), one in zip(named, known, strict=True) if one.wrong)
    if wrong and given.broken == "refuse":
        raise DataError(f'{origin}: {_listed(wrong)}: mend them, or leave them out with zoo.Data(…, broken="skip")')
    if len(wrong) == len(named):
        raise DataError(f"{origin}: holds no picture that can be read: {_listed(wrong)}")
    whole = [source for (source, _), one in zip(named, known, strict=True) if not one.wrong]
    several = sum(one.several for one in known if not one.wrong)
    notes = (f"{several} pictures have several frames, of which the first is used",) if several else ()
    return whole, wrong, notes


def _listed(wrong: Sequence[tuple[str, str]]) -> str:
    more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    return "; ".join(f"{name}: {why}" for name, why in wrong[:3]) + more


@lru_cache(maxsize=_REMEMBERED)
def _check_file(path: Path, size: int, changed: int) -> Checked:
    try:
        return _check_bytes(_bytes_of(path))
    except OSError as error:
        return Checked(b"", f"it cannot be read ({_reason(error)})")
    except DataError as error:
        return Checked(b"", f"it has {error}")


def _check_bytes(raw: bytes) -> Checked:
    from PIL import UnidentifiedImageError

    key = key_of(raw)
    if not raw:
        return Checked(key, "it is empty")
    try:
        with opened(raw) as image:
            several = bool(getattr(image, "is_animated", False)) and image.format != "MPO"  # how many would take long
            image.draft(None, (_SHORTEST, _SHORTEST))
            image.load()
            span, mode = (_extrema(image), image.mode) if is_wide(image) else (None, "")
    except UnidentifiedImageError:
        return Checked(key, "it is no picture that Pillow reads")
    except DataError as error:
        return Checked(key, f"it has {error}")
    except Exception as error:  # Pillow's readers raise whatever a broken file makes them
        return Checked(key, f"it is broken ({_why(error)})")
    if span is not None and not all(map(math.isfinite, span)):
        return Checked(key, "it has values that are no finite numbers")
    return Checked(key, several=several, span=span, mode=mode)


def _extrema(image: Image) -> tuple[float, float]:
    import numpy as np

    values = np.asarray(image)
    return float(values.min()), float(values.max())


def _check_loaded(image: Any) -> Checked:
    """Return the key of a picture in memory: a PIL image, a tensor, an array."""
    import numpy as np
    from PIL import Image

    if isinstance(image, Image.Image):
        try:
            return Checked(key_of(image.mode, str(image.size), image.tobytes()))
        except Exception as error:
            return Checked(b"", f"it is broken ({_why(error)})")
    if hasattr(image, "detach"):
        image = image.detach().cpu()
        image = (image.float() if str(image.dtype) == "torch.bfloat16" else image).numpy()
    array = np.ascontiguousarray(image)
    return Checked(key_of(str(array.dtype), str(array.shape), array.tobytes()))


def _is_known(path: Path) -> bool:
    try:
        with open_regular(path) as file, opened(file):
            return True
    except DataError:  # a picture, and too large
        return True
    except Exception:  # whatever a file of another kind makes Pillow's readers raise
        return False


def _content(source: Any) -> bytes:
    if isinstance(source, Mapping):
        source = source["bytes"] if source.get("bytes") is not None else source.get("path")
    if source is None:
        raise ValueError("it is empty")
    return bytes(source) if isinstance(source, bytes | bytearray | memoryview) else _bytes_of(Path(source))


def _bytes_of(path: Path) -> bytes:
    """Return the bytes of a picture's file.

    Raises:
        OSError: it cannot be read, or is no regular file.
        DataError: it is larger than `zoo.data.limits` allows.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        said = PICTURE.exceeded(size)
        if said:
            raise DataError(said)
        return file.read(size)


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _upright(image: Image) -> Image:
    from PIL import ImageOps

    turned = ImageOps.exif_transpose(image)
    return image if turned is None else turned


def _why(error: BaseException) -> str:
    return one_line(error, 80).replace("cannot identify image file", "unknown content")


@contextmanager
def _lenient() -> Iterator[None]:
    """Ignore Pillow's warnings: what cannot be used raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
