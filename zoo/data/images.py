"""Images a user brings, or drawn letters, as one tensor that a model can take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from zoo.data import letters
from zoo.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

T = TypeVar("T")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
LETTER_COUNTS = {"train": 7800, "test": 520}  # whole rounds of 26
_HOLD_OUT = 10  # one file in this many belongs to "test"
_SPLIT_FOLDERS = {"train": ("train", "training"), "test": ("test", "val", "valid", "validation")}


@dataclass(frozen=True)
class ImageItems:
    """Images as a user brought them, with n labels and the labels' names where the data have them.

    images: a Tensor `[n, c, h, w]` float32 in [-1, 1], or a sequence whose items are such Tensors `[c, h, w]`, PIL
    images, or Paths of files that are not opened yet; c is 1, 3 or 4. labels: `[n]` int64, or None. classes: the names
    of the labels in order (subfolders, letters), or () where the data do not say.
    """

    images: Sequence[Any] | Tensor
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)


def image_items(data: Any, *, split: str, size: int = 32, own: str = "letters:sans") -> ImageItems:
    """The images of `data`, which is what `image_data` takes, for a model with preprocessing of its own.

    Nothing is scaled or cropped, and files stay closed: open one with `open_image`. `size` is that of drawn letters.
    """
    import numpy as np
    import torch

    if split not in _SPLIT_FOLDERS:
        raise DataError(f"Images have the splits train and test; got {split!r}.{did_you_mean(split, _SPLIT_FOLDERS)}")
    if data is None:
        data = own
    if isinstance(data, str | Path):
        name = str(data)
        if name.startswith("letters:"):
            drawn, which = letters.render(name[8:], LETTER_COUNTS[split], seed=0, size=size, split=split)
            return ImageItems(drawn * 2 - 1, which, tuple(letters.LETTERS))
        return _from_path(Path(name).expanduser(), split)
    images, labels = _images_and_labels(data)
    labels = _labels(labels, len(images))
    if isinstance(images, torch.Tensor | np.ndarray):
        return ImageItems(_bulk(images), labels)
    if any(isinstance(image, torch.Tensor | np.ndarray) for image in images):
        groups = [_one(image) for image in images]
        signed = _signed(groups)
        images = [_scaled(group, signed)[0] for group in groups]
    return ImageItems(images, labels)


def with_channels(images: Tensor, channels: int) -> Tensor:
    """`[n, c, h, w]` in [-1, 1] → `[n, channels, h, w]`: grey ↔ colour; transparency becomes white."""
    if images.shape[1] == 4:
        ink, alpha = images[:, :3], images[:, 3:] / 2 + 0.5
        images = ink * alpha + (1 - alpha)
    if images.shape[1] == 3 and channels == 1:  # ITU-R BT.601 luma, as Pillow's mode L
        return (images * images.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    if images.shape[1] == 1 and channels > 1:
        return images.expand(-1, channels, -1, -1)
    if images.shape[1] != channels:
        raise DataError(f"Images of {images.shape[1]} channels do not become {channels}; give 1 or 3.")
    return images


def image_data(
    data: Any, *, size: int, channels: int, split: str, own: str = "letters:sans"
) -> tuple[Tensor, Tensor | None]:
    """Images `[n, channels, size, size]` float32 in [-1, 1], and labels `[n]` int64 or None where the data have none.

    `data` is one of:

    - None: `own`; `"letters:<style>"`: capitals drawn for the split, ink 1 on paper -1 (see `zoo.data.letters`);
    - a folder of images, flat or with one subfolder per class (labels count the sorted names), either with `train` and
      `test` folders of its own or with every tenth file kept for "test" (from ten files on; fewer serve both);
    - an image file, or an `.npy` or `.npz` file (arrays `images` and perhaps `labels`), split in the same way;
    - images as a tensor or array `[n, c, h, w]`, `[n, h, w, c]` or `[n, h, w]`, bytes or floats in [0, 1] or, if some
      are negative, in [-1, 1]; `(images, labels)`; a list of PIL images; a mapping with `images` and `labels`; a torch
      Dataset of images, of `(image, label)` or of such mappings. These are used whole, in either split.

    Images are scaled to cover a square and cropped to its middle; greyscale and colour convert into each other,
    transparency becomes white. Everything is held in memory. Raises `DataError` for anything else.
    """
    items = image_items(data, split=split, size=size, own=own)
    return _stack(items.images, size, channels), items.labels


def _from_path(path: Path, split: str) -> ImageItems:
    if path.is_dir():
        return _from_folder(path, split)
    if not path.exists():
        names = [f"letters:{style}" for style in letters.STYLES]
        hint = did_you_mean(str(path), names)
        raise DataError(
            f"Images are a folder, a file or one of {', '.join(names)}; there is no file or name {str(path)!r}.{hint}"
        )
    if path.suffix.lower() in (".npy", ".npz"):
        images, labels = _read_arrays(path)
        images = _bulk(images)
    elif path.suffix.lower() in SUFFIXES:
        images, labels = [path], None
    else:
        raise DataError(f"An image file ends in {', '.join((*SUFFIXES, '.npy', '.npz'))}; got {path.name!r}.")
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
            f"{folder} holds no images ({', '.join(SUFFIXES)}), neither itself nor in one subfolder per class."
        )
    chosen = found if divided else _share(found, split)
    labels = torch.tensor([label for _, label in chosen]) if classes else None
    return ImageItems([path for path, _ in chosen], labels, tuple(classes))


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and path.suffix.lower() in SUFFIXES)


def _share(items: list[T], split: str) -> list[T]:
    """The items of one split: every tenth is held out; fewer than ten serve both splits."""
    if len(items) < _HOLD_OUT:
        return items
    last = _HOLD_OUT - 1
    return [item for i, item in enumerate(items) if (i % _HOLD_OUT == last) == (split == "test")]


def open_image(path: Path) -> Image:
    """The picture in a file, upright. Raises `DataError` where Pillow cannot read it."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image)  # loads it, upright
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"{path} is not an image that Pillow can read ({error}); remove it or convert it.") from error


def _read_arrays(path: Path) -> tuple[Any, Any]:
    import numpy as np

    try:
        held = np.load(path, allow_pickle=False)
    except (ValueError, OSError) as error:
        raise DataError(f"{path} is not a plain NumPy file ({error}); write it with numpy.save or savez.") from error
    if isinstance(held, np.ndarray):
        return held, None
    with held:
        if "images" not in held:
            raise DataError(f"{path} needs an array `images`; it holds {', '.join(held) or 'nothing'}.")
        return held["images"], held.get("labels")


def _images_and_labels(data: Any) -> tuple[Any, Any]:
    """Split what a user hands over into images (anything with a length and indices) and labels or None."""
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
            raise DataError(f"A dataset needs a length and indices; {type(data).__name__} has none. Make it a list.")
        pairs = [_item(data[i]) for i in range(len(data))]
        labelled = [label for _, label in pairs if label is not None]
        if labelled and len(labelled) != len(pairs):
            raise DataError(f"Only {len(labelled)} of {len(pairs)} items have a label; label all of them or none.")
        return [image for image, _ in pairs], labelled or None
    raise DataError(
        f"Images are a folder, a file, tensors, (images, labels) or a torch Dataset; got {type(data).__name__}."
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
    raise DataError(f"A mapping of image data needs {image!r}; got {', '.join(map(repr, item)) or 'nothing'}.")


def _labels(labels: Any, count: int) -> Tensor | None:
    import torch

    if labels is None:
        return None
    try:
        labels = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"Labels are whole numbers, one for each image; got {type(labels).__name__}.") from error
    if labels.shape != (count,) or labels.is_floating_point() or (count and labels.min() < 0):
        raise DataError(
            f"Labels are {count} whole numbers from 0, one for each image; got {labels.dtype} of shape "
            f"{list(labels.shape)}{' with negative ones' if labels.numel() and labels.min() < 0 else ''}."
        )
    return labels.long()


def _stack(images: Any, size: int, channels: int) -> Tensor:
    """Images as `ImageItems` holds them, `[n, channels, size, size]` in [-1, 1]."""
    import torch

    if not len(images):
        return torch.empty(0, channels, size, size)
    if isinstance(images, torch.Tensor):
        return _fit(images, size, channels)
    return torch.cat([_fit(_unit(image), size, channels) for image in images])


def _unit(image: Any) -> Tensor:
    """One image `[1, c, h, w]` in [-1, 1]."""
    import torch

    if isinstance(image, torch.Tensor):
        return image[None]
    return _scaled(_one(open_image(image) if isinstance(image, Path) else image), False)


def _bulk(images: Any) -> Tensor:
    """A tensor or array of images `[n, c, h, w]` in [-1, 1]."""
    import torch

    if not len(images):
        return torch.empty(0, 1, 1, 1)
    group = _channels_first(torch.as_tensor(images))
    return _scaled(group, _signed([group]))


def _signed(groups: list[Tensor]) -> bool:
    """Whether floats lie in [-1, 1]: one image may have no dark pixel, so this is judged over all of them."""
    return any(group.is_floating_point() and bool(group.min() < 0) for group in groups)


def _one(image: Any) -> Tensor:
    """One image `[1, c, h, w]`, bytes or floats."""
    import numpy as np
    import torch
    from PIL import Image

    if isinstance(image, Image.Image):
        if image.mode.startswith("I;16"):
            return torch.from_numpy(np.array(image).astype(np.float32) / 65535)[None, None]
        if "A" in image.mode or "transparency" in image.info:
            image = image.convert("RGBA")
        elif image.mode not in ("L", "RGB"):
            image = image.convert("L" if image.mode in ("1", "I", "F") else "RGB")
        return _channels_first(torch.from_numpy(np.array(image))[None])
    if isinstance(image, torch.Tensor | np.ndarray):
        return _channels_first(torch.as_tensor(image)[None])
    raise DataError(f"An image is a PIL image, a tensor or an array; got {type(image).__name__}.")


def _channels_first(images: Tensor) -> Tensor:
    if images.ndim == 3:
        return images[:, None]
    if images.ndim == 4 and images.shape[1] in (1, 3, 4):
        return images
    if images.ndim == 4 and images.shape[-1] in (1, 3, 4):
        return images.permute(0, 3, 1, 2)
    raise DataError(
        "Images are [n, c, h, w], [n, h, w, c] or [n, h, w] with 1, 3 or 4 channels; "
        f"got {images.ndim} dimensions of {list(images.shape)}."
    )


def _fit(images: Tensor, size: int, channels: int) -> Tensor:
    """`[n, c, h, w]` float32 in [-1, 1] → `[n, channels, size, size]`, scaled to cover and cropped to the middle."""
    import torch

    images = with_channels(images, channels)
    height, width = images.shape[-2:]
    scale = size / min(height, width)
    if (height, width) != (size, size):
        shape = (max(size, round(height * scale)), max(size, round(width * scale)))
        images = torch.nn.functional.interpolate(
            images, shape, mode="bilinear", align_corners=False, antialias=True
        ).clamp(-1, 1)
        top, left = (shape[0] - size) // 2, (shape[1] - size) // 2
        images = images[..., top : top + size, left : left + size]
    return images.contiguous()


def _scaled(images: Tensor, signed: bool) -> Tensor:
    """Float32 in [-1, 1] from bytes, booleans, or floats in [0, 1] or, if `signed`, in [-1, 1]."""
    import torch

    if images.dtype == torch.uint8:
        return images.float() / 127.5 - 1
    if images.dtype == torch.bool:
        return images.float() * 2 - 1
    if not images.is_floating_point():
        raise DataError(f"Images are bytes (uint8) or floats; got {images.dtype}. Convert them first.")
    images = images.float()
    low, high = images.aminmax()
    if not (torch.isfinite(low) and torch.isfinite(high)) or low < -1.001 or high > 1.001:
        raise DataError(f"Float images lie in [0, 1] or [-1, 1]; got values from {low:.4g} to {high:.4g}.")
    return images.clamp(-1, 1) if signed else images.clamp(0, 1) * 2 - 1
