"""Images that a user brings, or drawn letters, as tensors that a model can take.

Shapes: n images of c channels, h × w pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from zoo.data import letters
from zoo.data.labels import check_labels
from zoo.data.pixels import as_batch, as_single, edges, fit, is_signed, scaled
from zoo.data.pixels import with_channels as with_channels
from zoo.data.stream import stream
from zoo.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from zoo.plugin.requests import BatchRequest

T = TypeVar("T")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
LETTER_COUNTS = {"train": 7800, "test": 520}  # whole rounds of 26
_HOLD_OUT = 10  # one file in this many belongs to "test"
_SPLIT_FOLDERS = {"train": ("train", "training"), "test": ("test", "val", "valid", "validation")}


@dataclass(frozen=True)
class ImageItems:
    """Images as a user brought them, with their labels and the labels' names where the data have them.

    Attributes:
        images: a Tensor [n, c, h, w] float32 in [-1, 1], or a sequence whose items are such Tensors [c, h, w], PIL
            images, or Paths of files that are not opened yet; c is 1, 3 or 4.
        labels: int64 [n], or None.
        classes: the names of the labels in order (subfolders, letters), or () where the data do not say.
    """

    images: Sequence[Any] | Tensor
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)


def image_items(data: Any, *, split: str, size: int = 32, own: str = "letters:sans") -> ImageItems:
    """Return the images of `data`, for a model with preprocessing of its own.

    Nothing is scaled or cropped, and files stay closed: open one with `open_image`.

    Args:
        data: what `image_data` takes.
        split: "train" or "test".
        size: of drawn letters, in pixels.
        own: the data that None means.

    Raises:
        DataError: `data` is nothing of the kind, or the split is another.
    """
    import numpy as np
    import torch

    if split not in _SPLIT_FOLDERS:
        raise DataError(
            f"expected one of the splits train and test, got {split!r}.{did_you_mean(split, _SPLIT_FOLDERS)}"
        )
    if data is None:
        data = own
    if isinstance(data, str | Path):
        name = str(data)
        if name.startswith(letters.PREFIX):
            style, _ = letters.style_of(name)
            drawn, which = letters.render(style, LETTER_COUNTS[split], seed=0, size=size, split=split)
            return ImageItems(drawn * 2 - 1, which, tuple(letters.LETTERS))
        return _from_path(Path(name).expanduser(), split)
    images, labels = _images_and_labels(data)
    labels = _labels(labels, len(images))
    if isinstance(images, torch.Tensor | np.ndarray):
        return ImageItems(as_batch(images), labels)
    if any(isinstance(image, torch.Tensor | np.ndarray) for image in images):
        groups = [as_single(image) for image in images]
        signed = is_signed(groups)
        images = [scaled(group, signed)[0] for group in groups]
    return ImageItems(images, labels)


def image_data(
    data: Any, *, size: int | tuple[int, int], channels: int, split: str, own: str = "letters:sans"
) -> tuple[Tensor, Tensor | None]:
    """Return images [n, channels, h, w] float32 in [-1, 1], and labels int64 [n] or None where there are none.

    `size` is h and w in pixels, or one number for both. `data` is one of:

    - None: `own`; `"letters:<style>"`: capitals drawn for the split, ink 1 on paper -1 (see `zoo.data.letters`);
    - a folder of images, flat or with one subfolder per class (labels count the sorted names), either with `train` and
      `test` folders of its own or with every tenth file kept for "test" (from ten files on; fewer serve both);
    - an image file, or an `.npy` or `.npz` file (arrays `images` and perhaps `labels`), split in the same way;
    - images as a tensor or array `[n, c, h, w]`, `[n, h, w, c]` or `[n, h, w]`, bytes or floats in [0, 1] or, if some
      are negative, in [-1, 1]; `(images, labels)`; a list of PIL images; a mapping with `images` and `labels`; a torch
      Dataset of images, of `(image, label)` or of such mappings. These are used whole, in either split.

    Images are scaled to cover a square and cropped to its middle; greyscale and colour convert into each other,
    transparency becomes white. Everything is held in memory.

    Raises:
        DataError: `data` is anything else.
    """
    items = image_items(data, split=split, size=max(edges(size)), own=own)
    return _stack(items.images, size, channels), items.labels


def image_batches(
    data: Any,
    request: BatchRequest,
    *,
    size: int | tuple[int, int],
    channels: int,
    own: str = "letters:sans",
    classes: tuple[int, str] | None = None,
) -> Iterator[dict[str, Tensor]]:
    """Return batches of "images" [n, channels, h, w] in [-1, 1] and, where the data have them, "labels" [n].

    Args:
        data: what `image_data` takes; the letters of "letters:<style>:fresh" are drawn anew all the time in training.
        request: batch size, split and seed.
        size: h and w in pixels, or one number for both.
        channels: how many.
        own: the data that None means.
        classes: how many classes the model has, which the labels have to fit (see `check_labels`), and what the model
            is called; None takes the labels as they are.

    Raises:
        DataError: as `image_data`, `check_labels` and `stream` do; at the call and not at the first batch.
    """
    import torch

    name = own if data is None else data
    if request.training and letters.is_fresh(name):
        every = torch.arange(len(letters.LETTERS))
        labelled = classes is None or check_labels(every, count=classes[0], model=classes[1]) is not None
        drawn = letters.fresh(name, request, size=max(edges(size)), channels=channels, labelled=labelled)
        return ({**batch, "images": fit(batch["images"], size, channels)} for batch in drawn)
    images, labels = image_data(data, size=size, channels=channels, split=request.split, own=own)
    if classes is not None:
        labels = check_labels(labels, count=classes[0], model=classes[1])
    return stream({"images": images, "labels": labels}, request)


def _from_path(path: Path, split: str) -> ImageItems:
    if path.is_dir():
        return _from_folder(path, split)
    if not path.exists():
        names = [f"letters:{style}" for style in letters.STYLES]
        hint = did_you_mean(str(path), names)
        raise DataError(
            f"expected images as a folder, a file or one of {', '.join(names)}; there is no file or name "
            f"{str(path)!r}.{hint}"
        )
    if path.suffix.lower() in (".npy", ".npz"):
        images, labels = _read_arrays(path)
        images = as_batch(images)
    elif path.suffix.lower() in SUFFIXES:
        images, labels = [path], None
    else:
        raise DataError(f"expected an image file ({', '.join((*SUFFIXES, '.npy', '.npz'))}), got {path.name!r}")
    labels = _labels(labels, len(images))
    chosen = _share(list(range(len(images))), split)
    kept = images[chosen] if path.suffix.lower() in (".npy", ".npz") else [images[i] for i in chosen]
    return ImageItems(kept, None if labels is None else labels[chosen])


def _from_folder(root: Path, split: str) -> ImageItems:
    import torch

    own_folder = {
        part: next((root / name for name in names if (root / name).is_dir()), None)
        for part, names in _SPLIT_FOLDERS.items()
    }
    # A folder `train` without a `test` may be a class of that name, so both must be there.
    divided = all(own_folder.values())
    folder = (own_folder[split] or root) if divided else root
    classes = sorted(child.name for child in folder.iterdir() if child.is_dir() and _files(child))
    found: list[tuple[Path, int]] = [
        (path, label) for label, name in enumerate(classes or [""]) for path in _files(folder / name)
    ]
    if not found:
        raise DataError(
            f"{folder} holds no images: expected {', '.join(SUFFIXES)} in it, or in one subfolder per class"
        )
    chosen = found if divided else _share(found, split)
    labels = torch.tensor([label for _, label in chosen]) if classes else None
    return ImageItems([path for path, _ in chosen], labels, tuple(classes))


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and path.suffix.lower() in SUFFIXES)


def _share(items: list[T], split: str) -> list[T]:
    """Return the items of one split: every tenth is held out; fewer than ten serve both splits."""
    if len(items) < _HOLD_OUT:
        return items
    last = _HOLD_OUT - 1
    return [item for i, item in enumerate(items) if (i % _HOLD_OUT == last) == (split == "test")]


def open_image(path: Path) -> Image:
    """Return the picture in a file, upright.

    Raises:
        DataError: Pillow cannot read it.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)  # loads it
            assert upright is not None  # as older Pillows declare it, for in_place=True
            return upright
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"{path} is not an image that Pillow can read ({error}): remove it or convert it") from error


def _read_arrays(path: Path) -> tuple[Any, Any]:
    import numpy as np

    try:
        held = np.load(path, allow_pickle=False)
    except (ValueError, OSError) as error:
        raise DataError(f"{path} is not a plain NumPy file ({error}): write it with numpy.save or savez") from error
    if isinstance(held, np.ndarray):
        return held, None
    with held:
        if "images" not in held:
            raise DataError(f"{path}: expected an array `images`, and it holds {', '.join(held) or 'nothing'}")
        return held["images"], held.get("labels")


def _images_and_labels(data: Any) -> tuple[Any, Any]:
    """Split what a user gives into images (anything with a length and indices) and labels or None."""
    import numpy as np
    import torch
    from torch.utils.data import Dataset

    if isinstance(data, torch.Tensor | np.ndarray):
        return data, None
    if isinstance(data, Mapping):
        return _of_mapping(data, "images", "labels")
    if isinstance(data, tuple) and len(data) == 2 and isinstance(data[0], torch.Tensor | np.ndarray | list):
        return data
    if isinstance(data, Dataset) or (isinstance(data, Sequence) and not isinstance(data, str | bytes)):
        if not isinstance(data, Sized):
            raise DataError(f"expected a dataset with a length and indices, got {type(data).__name__}: make it a list")
        pairs = [_item(data[i]) for i in range(len(data))]
        labelled = [label for _, label in pairs if label is not None]
        if labelled and len(labelled) != len(pairs):
            raise DataError(
                f"expected a label for all items or none, got {len(labelled)} of {len(pairs)}: label the others too"
            )
        return [image for image, _ in pairs], labelled or None
    raise DataError(
        f"expected images as a folder, a file, tensors, (images, labels) or a torch Dataset, got {type(data).__name__}"
    )


def _item(item: Any) -> tuple[Any, Any]:
    if isinstance(item, Mapping):
        return _of_mapping(item, "image", "label")
    if isinstance(item, tuple | list):
        return item[0], item[1] if len(item) > 1 else None
    return item, None


def _of_mapping(item: Mapping[str, Any], image: str, label: str) -> tuple[Any, Any]:
    for name in (image, "pixel_values", "img"):
        if name in item:
            return item[name], next((item[key] for key in (label, "labels", "label") if key in item), None)
    raise DataError(f"a mapping of image data needs {image!r}, got {', '.join(map(repr, item)) or 'nothing'}")


def _labels(labels: Any, count: int) -> Tensor | None:
    import torch

    if labels is None:
        return None
    try:
        labels = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"expected labels as whole numbers, one for each image, got {type(labels).__name__}") from error
    if labels.shape != (count,) or labels.is_floating_point() or (count and labels.min() < 0):
        raise DataError(
            f"expected labels as {count} whole numbers from 0, one for each image, got {labels.dtype} of shape "
            f"{list(labels.shape)}{' with negative ones' if labels.numel() and labels.min() < 0 else ''}"
        )
    return labels.long()


def _stack(images: Any, size: int | tuple[int, int], channels: int) -> Tensor:
    """Return images, as `ImageItems` holds them, as [n, channels, h, w] in [-1, 1]."""
    import torch

    if not len(images):
        return torch.empty(0, channels, *edges(size))
    if isinstance(images, torch.Tensor):
        return fit(images, size, channels)
    return torch.cat([fit(_unit(image), size, channels) for image in images])


def _unit(image: Any) -> Tensor:
    """Return one image as [1, c, h, w] in [-1, 1]."""
    import torch

    if isinstance(image, torch.Tensor):
        return image[None]
    return scaled(as_single(open_image(image) if isinstance(image, Path) else image), False)
